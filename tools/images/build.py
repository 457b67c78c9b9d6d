"""Building our three images, those that changed."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.alone import alone
from tools.console import Console
from tools.engine import Engine, ensure
from tools.images import machine, parts
from tools.images.bases import ROOT, bases
from tools.images.builder import builder

LABEL = "dev.warren.part"
"""Label of an image of ours: which part it is."""

KEPT = 5
"""Images of each part that are kept for other states of the clone, and for other clones."""

BUILD_LIMIT = 1200.0
"""Seconds for one image: most of it is downloading packages."""


def build(console: Console, root: Path = ROOT) -> Mapping[str, str]:
    """The three images, by part: `{"worker": "warren/worker:0.1.0-1a2b3c4d5e6f", …}`, built if they are not there.

    Each also carries the plain version as a tag.

    Raises:
        ToolError: no engine, no base image, or an incomplete clone.
        CommandError: the build failed.
    """
    engine = ensure(console)
    base = bases(console, engine, root=root).python
    base_id = engine.image_id(base) or base
    release = parts.version(root)
    # Read once, for the tag and for the build: an edit in between belongs to the next build.
    contents = {part: parts.read(part, root) for part in parts.PARTS}
    names = {part: f"{part.image}:{parts.content_tag(release, base_id, files)}" for part, files in contents.items()}
    if not _there(engine, names.values()):
        with alone("images", console, limit=BUILD_LIMIT), tempfile.TemporaryDirectory(prefix="warren-build-") as folder:
            _fill(Path(folder), contents.values())
            for part, name in names.items():
                if not _there(engine, [name]):
                    with console.step(f"Building {name}"):
                        _build(part, name, {"PYTHON_IMAGE": base, "VERSION": release}, Path(folder), engine)
                    _forget_older(part, engine)
    # Also where nothing was built: going back to an earlier state of the clone finds its image still there.
    for part, name in names.items():
        engine.run("tag", name, f"{part.image}:{release}")
    return {part.name: name for part, name in names.items()}


def _there(engine: Engine, names: Iterable[str]) -> bool:
    return engine.run("image", "inspect", "--format", "{{.Id}}", *names, check=False).code == 0


def _build(part: parts.Part, name: str, arguments: Mapping[str, str], context: Path, engine: Engine) -> None:
    arguments = {**arguments, **machine.proxies(os.environ)}
    engine.run(
        "build",
        *("--target", part.name),
        # As this machine reaches the network, with its proxies on loopback too.
        *("--network", "host"),
        *(f"--build-arg={key}={value}" for key, value in sorted(arguments.items())),
        *("--label", f"{LABEL}={part.name}"),
        *("--tag", name),
        context,
        limit=BUILD_LIMIT,
        env=builder(engine),
    )


def _fill(context: Path, contents: Iterable[Mapping[str, bytes]]) -> None:
    """Write what the Dockerfile needs, and how this machine reaches a package index, which stays out of the clone."""
    for files in contents:
        for path, data in files.items():
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            (context / path).write_bytes(data)
    settings = context / "machine"
    settings.mkdir()
    bundle = machine.ca_bundle(os.environ)
    if bundle is not None:
        shutil.copyfile(bundle, settings / "ca-certificates.crt")
    certificates = "/build/ca-certificates.crt" if bundle is not None else None
    (settings / "pip.conf").write_text(machine.pip_conf(machine.read_pip_settings(), bundle=certificates))


def _forget_older(part: parts.Part, engine: Engine) -> None:
    """Drop all but the newest tags, or each edit would leave an image behind; one that a container uses stays.

    Some are kept, because another clone on this machine may be about to use the one that it has just built.
    """
    # docker lists the newest first.
    listed = engine.run(
        "image", "ls", "--filter", f"reference={part.image}:*-*", "--format", "{{.Repository}}:{{.Tag}}"
    )
    older = listed.stdout.split()[KEPT:]
    if older:
        engine.run("rmi", *older, check=False)
