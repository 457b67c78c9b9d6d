"""Images in a node's containerd: which are there, and loading those that are not."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.shell import ToolError, run

NAMESPACE = "k8s.io"
"""containerd's namespace that the kubelet uses."""
LABEL = "warren.dev/image-id"
"""On each image that we loaded: its id, as Docker shows it."""
IMPORT_LIMIT = 600.0
"""Seconds to import an archive: a gigabyte takes about ten on a fast disk."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """One image of an archive."""

    id: str
    """`sha256:` and the hash of its configuration, as `docker image inspect` shows it."""
    names: tuple[str, ...]
    """As they are written in pod specs: `python:3.13-slim`."""


def short_name(name: str) -> str:
    """The name as people write it: without a registry, without `library/`, with a tag.

    containerd and the kubelet write names out with the host of the registry that Docker takes for granted. Which one
    that is need not be known here: only names of images that we loaded are compared, and those have none.

    >>> short_name("registry.example/library/python")
    'python:latest'
    """
    host, path = _split(name)
    path = path.removeprefix("library/") if host else path
    return path if ":" in path or "@" in path else f"{path}:latest"


def written_out(name: str, like: str) -> str:
    """A short name, written out as containerd wrote out another one.

    >>> written_out("python:3", like="registry.example/a/b:1")
    'registry.example/library/python:3'
    """
    host, _ = _split(like)
    return f"{host}/{name if '/' in name else f'library/{name}'}" if host else name


def _split(name: str) -> tuple[str, str]:
    """Registry, empty if there is none, and the rest."""
    host, slash, rest = name.partition("/")
    return (host, rest) if slash and ("." in host or ":" in host or host == "localhost") else ("", name)


def parse_archive_manifest(text: str) -> tuple[Image, ...]:
    """The images that the manifest.json of a `docker save` archive lists.

    Raises:
        ValueError: it is no such manifest.
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("not a list of images")  # noqa: TRY004 - a wrong file, not a wrong call
    images = []
    for entry in entries:
        # Older archives: `<hash>.json`; newer ones: `blobs/sha256/<hash>`.
        digest = Path(str(entry["Config"])).name.removesuffix(".json")
        images.append(Image(f"sha256:{digest}", tuple(entry.get("RepoTags") or ())))
    return tuple(images)


def archive_images(archive: Path) -> tuple[Image, ...]:
    """The images in an archive that `docker save` or `docker-archive:` wrote.

    Raises:
        ToolError: it is not such an archive, or has an image without a name.
    """
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("manifest.json")
            images = parse_archive_manifest(member.read().decode() if member else "")
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise ToolError(f"{archive} is not an archive as `docker save` writes it: {error}") from error
    if not images or not all(image.names for image in images):
        raise ToolError(f"{archive} has an image without a name: save it by its name, not by its id.")
    return images


def parse_list(output: str) -> dict[str, str]:
    """Short name → id of the images in the output of `ctr images list`, for those with our label."""
    found = {}
    for line in output.splitlines()[1:]:
        fields = line.split()
        if not fields:
            continue
        labels = dict(label.split("=", 1) for label in fields[-1].split(",") if "=" in label)
        if LABEL in labels:
            found[short_name(fields[0])] = labels[LABEL]
    return found


def missing(images: Iterable[Image], present: Mapping[str, str]) -> tuple[Image, ...]:
    """Those that are not there under each of their names with the same id."""
    return tuple(image for image in images if any(present.get(short_name(name)) != image.id for name in image.names))


@dataclass(frozen=True)
class Store:
    """The images of one node."""

    ctr: str
    socket: Path

    def _run(self, *words: str | Path, limit: float) -> str:
        return run([self.ctr, "--address", self.socket, "--namespace", NAMESPACE, "images", *words], limit=limit).stdout

    def present(self) -> dict[str, str]:
        """Short name → id of what was loaded."""
        return parse_list(self._run("list", limit=60))

    def tag(self, name: str, alias: str) -> None:
        """Give an image that is there another name; labels go along."""
        stored = self._stored(name)
        self._run("tag", "--force", stored, written_out(short_name(alias), stored), limit=60)

    def save(self, archive: Path, names: Iterable[str]) -> None:
        """Write images that are there to an archive."""
        self._run("export", archive, *(self._stored(name) for name in names), limit=IMPORT_LIMIT)

    def load(self, archive: Path, images: Iterable[Image]) -> None:
        """Import an archive, and label its images, so that they need not be imported again."""
        self._run("import", archive, limit=IMPORT_LIMIT)
        for image in images:
            for name in image.names:
                self._run("label", self._stored(name), f"{LABEL}={image.id}", limit=60)

    def _stored(self, name: str) -> str:
        """The image's name as containerd keeps it."""
        return stored_name(name, self._run("list", "--quiet", limit=60).split())


def stored_name(name: str, stored: Iterable[str]) -> str:
    """The one of the stored names that a name means.

    Raises:
        ToolError: there is none.
    """
    for candidate in stored:
        if short_name(candidate) == short_name(name):
            return candidate
    raise ToolError(f"The node has no image {name}, although it was just loaded: put the cluster right (make cluster).")


def pause_archive(program: bytes, name: str) -> bytes:
    """The archive of an image with nothing in it but the program that holds a pod's namespaces open.

    The same bytes for the same program, so that its id says whether it is there already.
    """
    layer = _tar({"pause": (program, 0o755)})
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        # As in Kubernetes' own image: nobody in particular.
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config_text = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(config_text).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    return _tar({"layer.tar": (layer, 0o644), config_name: (config_text, 0o644), "manifest.json": (manifest, 0o644)})


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return output.getvalue()
