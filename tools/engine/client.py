"""Finding an engine that answers, and talking to it through the docker command."""

import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.host import find
from tools.shell import CommandError, Result, ToolError, run

ANSWER_LIMIT = 20.0
"""Seconds an engine gets to say its version. A busy one needs a second; one behind a dead tunnel never answers."""

DEFAULT_SOCKET = Path("/var/run/docker.sock")


@dataclass(frozen=True)
class Engine:
    """An engine that answered, the docker program that reached it, and the environment to reach it with."""

    docker: Path
    version: str
    host: str
    """Its address as DOCKER_HOST wants it, for programs other than docker, which do not know the user's contexts."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of each docker command."""

    def run(
        self,
        *arguments: str | Path,
        limit: float = 60,
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        hint: str = "",
    ) -> Result:
        """Run `docker ARGUMENTS…` against this engine; see `tools.shell.run`."""
        environment = {**self.environment, **(env or {})}
        return run([self.docker, *arguments], limit=limit, check=check, cwd=cwd, env=environment, hint=hint)

    def image_id(self, name: str) -> str | None:
        """The id of an image that the engine has under this name."""
        result = self.run("image", "inspect", "--format", "{{.Id}}", name, check=False)
        return result.stdout.strip() if result.code == 0 else None

    def image_label(self, name: str, label: str) -> str | None:
        """A label's value; None where the image or the label is not there."""
        result = self.run("image", "inspect", "--format", "{{json .Config.Labels}}", name, check=False)
        if result.code != 0:
            return None
        labels = json.loads(result.stdout) or {}
        value = labels.get(label)
        return value if isinstance(value, str) else None


def clients(system: Path = Path("/usr/bin/docker")) -> tuple[Path, ...]:
    """The docker programs of this machine, the user's own first.

    The distribution's is a second choice: a newer client may refuse the distribution's older engine.
    """
    found = (find("docker"), system if system.exists() else None)
    return tuple(dict.fromkeys(path for path in found if path is not None))


def endpoints(environ: Mapping[str, str], uid: int, home: Path) -> tuple[str | None, ...]:
    """Where to look for an engine, best first; None is what the docker program itself would choose.

    DOCKER_HOST and DOCKER_CONTEXT are the user's word: with one of them set, nothing else is tried.
    """
    if environ.get("DOCKER_HOST") or environ.get("DOCKER_CONTEXT"):
        return (None,)
    sockets = (DEFAULT_SOCKET, Path(f"/run/user/{uid}/docker.sock"), home / ".docker/run/docker.sock")
    return (None, *(f"unix://{socket}" for socket in sockets))


def answering() -> Engine | None:
    """An engine that answers now.

    Raises:
        ToolError: there is one, but it is not for us, or the one that the user named does not answer.
    """
    environ = os.environ
    trouble = ""
    for docker in clients():
        for endpoint in endpoints(environ, os.getuid(), Path.home()):
            if endpoint is not None and not Path(endpoint.removeprefix("unix://")).exists():
                continue
            environment = {} if endpoint is None else {"DOCKER_HOST": endpoint}
            version, said = _version(docker, environment)
            if version:
                host = endpoint or environ.get("DOCKER_HOST") or _context_host(docker)
                return Engine(docker, version, host, environment)
            trouble = trouble or said
    if "permission denied" in trouble.lower():
        raise ToolError(
            "A Docker engine runs here, but this user may not use it. Join its group, log in anew, try again:\n"
            "    sudo usermod -aG docker $USER"
        )
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        if environ.get(variable):
            raise ToolError(
                f"{variable} is {environ[variable]}, and no Docker engine answers there: "
                f"{trouble or 'there is no docker program'}. "
                f"Start that engine, or unset {variable} to use one of this machine."
            )
    return None


def at(path: Path) -> Engine | None:
    """The engine that listens on this socket, if one answers there."""
    if not answers(path):
        return None
    environment = {"DOCKER_HOST": f"unix://{path}"}
    for docker in clients():
        version, _ = _version(docker, environment)
        if version:
            return Engine(docker, version, environment["DOCKER_HOST"], environment)
    return None


def answers(path: Path) -> bool:
    """Whether something listens on this socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def check_socket(path: Path) -> None:
    """Refuse a folder in the socket's place, which is left where a container mounted a socket that was not there.

    Raises:
        ToolError: something else than a socket is in its place.
    """
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ToolError(f"{path} is not a socket, so no Docker engine can listen there. Remove it: rm -r {path}")


def _version(docker: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    try:
        result = run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            limit=ANSWER_LIMIT,
            check=False,
            env=environment,
        )
    except CommandError as error:
        return "", str(error)
    if result.code == 0:
        return result.stdout.strip(), ""
    return "", _first(result.stderr.splitlines())


def _context_host(docker: Path) -> str:
    result = run([docker, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], limit=10, check=False)
    return result.stdout.strip() or f"unix://{DEFAULT_SOCKET}"


def _first(lines: list[str]) -> str:
    meaningful: Iterator[str] = (line.strip() for line in lines if line.strip())
    return next(meaningful, "")
