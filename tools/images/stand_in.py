"""Images that take the place of official ones where those cannot be pulled.

Each is a Debian root file system from debootstrap with the Dockerfile of its folder on top. It is made once for each
version of its recipe and kept in the cache as a tar too, so that a fresh engine on the same machine has it in seconds.
"""

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.alone import alone
from tools.console import Console
from tools.engine import Engine
from tools.engine.places import cache_home
from tools.host import Need, ensure, is_root
from tools.images import apt, machine
from tools.images.builder import builder
from tools.shell import ToolError, run

LABEL = "dev.warren.stand-in"
"""Label of a stand-in: the fingerprint of the recipe that it was made by."""

RECIPES = Path(__file__).parent / "stand_ins"

NEEDS = (
    Need("debootstrap", "debootstrap"),
    Need("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
)

DEBOOTSTRAP_LIMIT = 900.0
"""Seconds for a minimal system: half a minute as a rule, more on a slow line."""

BUILD_LIMIT = 1200.0
"""Seconds for the packages on top of it."""

UNWANTED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
"""Folders that an image starts without, as in the slim official ones."""

FILES: Mapping[str, str] = {
    "etc/dpkg/dpkg.cfg.d/slim": "".join(f"path-exclude=/{folder}/*\n" for folder in UNWANTED[:4]),
    # Nothing starts while packages are installed: a container has no services.
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}
"""Files of every stand-in."""


@dataclass(frozen=True)
class StandIn:
    """One stand-in: the official image's name, the folder of its recipe, and the Debian release it is made from."""

    official: str
    folder: str
    suite: str

    @property
    def name(self) -> str:
        """Its name in the engine."""
        return f"warren-stand-in/{self.official}"

    @property
    def recipe(self) -> Path:
        """The folder with its Dockerfile."""
        return RECIPES / self.folder


PYTHON = StandIn("python:3.13-slim", "python", "trixie")
RABBITMQ = StandIn("rabbitmq:4.3-management", "rabbitmq", "sid")


def fingerprint(suite: str, architecture: str, recipe: Mapping[str, bytes]) -> str:
    """What a stand-in is made by; another value means that it has to be made again."""
    digest = hashlib.sha256()
    parts = {**recipe, **{f"/{path}": text.encode() for path, text in FILES.items()}}
    for word in (suite, architecture, *UNWANTED):
        digest.update(word.encode() + b"\0")
    for path in sorted(parts):
        digest.update(path.encode() + b"\0" + hashlib.sha256(parts[path]).digest())
    return digest.hexdigest()[:16]


def provide(stand_in: StandIn, engine: Engine, console: Console, *, rebuild: bool = False) -> str:
    """The stand-in's name, once the engine has it: as it is, from the cache, or made now.

    Raises:
        ToolError: it cannot be made here; the text says what to do instead.
        CommandError: a step of making it failed.
    """
    recipe = {
        path.relative_to(stand_in.recipe).as_posix(): path.read_bytes()
        for path in sorted(stand_in.recipe.rglob("*"))
        if path.is_file()
    }
    wanted = fingerprint(stand_in.suite, platform.machine(), recipe)
    if not rebuild and engine.image_label(stand_in.name, LABEL) == wanted:
        return stand_in.name
    with alone(f"image {stand_in.name}", console, limit=DEBOOTSTRAP_LIMIT + BUILD_LIMIT):
        # Whoever was waited for may have done it.
        if not rebuild and engine.image_label(stand_in.name, LABEL) == wanted:
            return stand_in.name
        kept = cache_home() / "images" / f"{stand_in.folder}-{wanted}.tar"
        if kept.exists() and not rebuild:
            with console.step(f"Loading {stand_in.name} from the cache"):
                engine.run("load", "--quiet", "--input", kept, limit=300, check=False)
            if engine.image_label(stand_in.name, LABEL) == wanted:
                return stand_in.name
        _make(stand_in, wanted, engine, console)
        _keep(stand_in, kept, engine)
    return stand_in.name


def _make(stand_in: StandIn, wanted: str, engine: Engine, console: Console) -> None:
    if not is_root():
        raise ToolError(
            f"{stand_in.official} cannot be pulled, and only root can make a stand-in for it. "
            "Let Docker reach a registry, or run this once, then try again:\n"
            "    sudo python3 -m tools.images bases"
        )
    ensure(NEEDS, console)
    source = apt.read()
    base = f"warren-stand-in/debian:{stand_in.suite}"
    with console.step(f"Making {base} from Debian's packages"):
        _make_base(stand_in.suite, base, source, engine)
    with console.step(f"Making {stand_in.name}, the stand-in for {stand_in.official}"):
        arguments = {**source.proxies, **machine.proxies(os.environ), "BASE": base}
        engine.run(
            "build",
            *("--network", "host"),
            *(f"--build-arg={key}={value}" for key, value in sorted(arguments.items())),
            *("--label", f"{LABEL}={wanted}"),
            *("--tag", stand_in.name),
            # The layers of an earlier try may hold packages that the repository no longer has.
            "--no-cache",
            stand_in.recipe,
            limit=BUILD_LIMIT,
            env=builder(engine),
        )
    # Its layer lives on in the stand-in; the name would only be in the way.
    engine.run("rmi", base, check=False)


def _make_base(suite: str, name: str, source: apt.Apt, engine: Engine) -> None:
    folder = cache_home() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{suite}-*.making"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{suite}-", suffix=".making", dir=folder) as making:
        root, tar = Path(making) / "root", Path(making) / "root.tar"
        # A mount namespace of its own: what debootstrap mounts below the folder is gone when it ends, however it ends.
        run(
            [
                *("unshare", "--mount", "--propagation", "private"),
                *("debootstrap", "--variant=minbase", "--include=ca-certificates", suite, root, source.mirror),
            ],
            limit=DEBOOTSTRAP_LIMIT,
            env=dict(source.proxies),
        )
        for path, text in {**FILES, "etc/apt/apt.conf.d/90machine": source.settings}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        bundle = machine.ca_bundle(os.environ)
        if source.mirror.startswith("https:") and bundle is not None:
            shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")
        # As a tar, because copying a folder into an image would give every file to root.
        excludes = (f"--exclude=./{path}/*" for path in (*UNWANTED, "dev", "proc", "sys"))
        run(["tar", "-C", root, "-cf", tar, "--numeric-owner", *excludes, "."], limit=300)
        engine.run("import", tar, name, limit=300)


def _keep(stand_in: StandIn, kept: Path, engine: Engine) -> None:
    partial = kept.with_suffix(f".{os.getpid()}")
    try:
        engine.run("save", "--output", partial, stand_in.name, limit=300)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
    for old in kept.parent.glob(f"{stand_in.folder}-*.tar"):
        if old != kept:
            old.unlink(missing_ok=True)
