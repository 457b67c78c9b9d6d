"""The images: the official bases or their stand-ins, and our three on top of them.

`python -m tools.images build|bases|list` is the same by hand.
"""

from tools.images.bases import Bases, bases, testcontainers_environment
from tools.images.build import build
from tools.images.pull import pull

__all__ = ["Bases", "bases", "build", "pull", "testcontainers_environment"]
