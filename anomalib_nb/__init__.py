"""Find defects in images, video and depth: a Jupyter-first toolkit, written as a book"""

__version__ = "0.1.0"

from .core.registry import attach

__getattr__, __dir__ = attach(__name__, "core")
