"""Which of the two clusters it is to be."""

from collections.abc import Callable
from enum import Enum

from tools.shell import ToolError

VARIABLE = "WARREN_CLUSTER"


class Kind(Enum):
    """The two ways to have a Kubernetes on this machine."""

    KIND = "kind"
    NODE = "node"


def choose(forced: str, there: Kind | None, node_image_can_be_had: Callable[[], bool]) -> Kind:
    """What is there stays; else what is asked for (`WARREN_CLUSTER`); else kind, where its image can be had.

    The question of the image is asked only where the answer matters: it may take a while.

    Raises:
        ToolError: asked for something unknown, or for the other one than is there.
    """
    if forced and forced not in {kind.value for kind in Kind}:
        raise ToolError(f"{VARIABLE}={forced}: must be `kind` or `node`, or left out to choose by itself.")
    if there is not None:
        if forced and forced != there.value:
            raise ToolError(
                f"{VARIABLE}={forced}, but there is a cluster of the other sort ({there.value}). "
                "Remove it first: make down"
            )
        return there
    if forced:
        return Kind(forced)
    return Kind.KIND if node_image_can_be_had() else Kind.NODE
