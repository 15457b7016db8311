"""Any Python process with this folder on PYTHONPATH reaches its own machine only."""

import offline

offline.close()
