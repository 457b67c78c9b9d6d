"""Which of docker's two builders a build goes through."""

from collections.abc import Mapping

from tools.engine import Engine
from tools.shell import CommandError


def builder(engine: Engine) -> Mapping[str, str]:
    """Variables that choose BuildKit where the docker program has it, else the classic builder.

    The builder of the context in use, and no container of its own: only that one sees the engine's local images.
    """
    try:
        engine.run("buildx", "version")
        return {"DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": engine.run("context", "show").stdout.strip() or "default"}
    except CommandError:
        return {"DOCKER_BUILDKIT": "0"}
