"""Every public name of the modules in this folder, imported on first use"""

from anomalib_nb.core.registry import attach

__getattr__, __dir__ = attach(__name__)
