"""A Docker engine for the images and for the tests: the one that runs, else one that we install and start.

Everything that needs an engine calls `ensure`; `python -m tools.engine up|down|status` is the same by hand.
"""

from tools.engine.client import Engine
from tools.engine.daemon import ensure

__all__ = ["Engine", "ensure"]
