"""What an engine leaves on a machine, found by pure reading of what the kernel says."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BRIDGE = re.compile(r"docker0|br-[0-9a-f]{12}|docker_gwbridge")
"""The names of the bridges that an engine makes: its default one, and one for each network."""

CHAIN = re.compile(r"DOCKER(-[A-Z0-9-]+)?")


def mounts_under(mountinfo: str, roots: Iterable[Path]) -> tuple[Path, ...]:
    """Mount points at or below these folders, the last mounted first, which is the order to unmount them in.

    `mountinfo` is the text of /proc/self/mountinfo (proc(5)); blanks in it are octal escapes.
    """
    tops = tuple(roots)
    points = [
        Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4]))
        for line in mountinfo.splitlines()
    ]
    return tuple(point for point in reversed(points) if any(point.is_relative_to(top) for top in tops))


def is_ours(argv: Sequence[str], run_folder: Path) -> bool:
    """Whether a process is part of the engine whose run-time folder this is: dockerd, containerd or a shim."""
    if not argv or Path(argv[0]).name not in {"dockerd", "containerd", "containerd-shim-runc-v2"}:
        return False
    folder = str(run_folder)
    return any(word == folder or word.startswith(f"{folder}/") for word in argv[1:])


def descendants(roots: Iterable[int], parents: Mapping[int, int]) -> frozenset[int]:
    """These processes and all that descend from them; `parents` maps each process to its parent."""
    found = set(roots)
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in found and child not in found}
        found |= more
        grown = bool(more)
    return frozenset(found)


@dataclass(frozen=True)
class Rules:
    """Arguments for iptables, one tuple each, that take an engine's rules and chains out again."""

    rules: tuple[tuple[str, ...], ...]
    chains: tuple[tuple[str, ...], ...]


def engine_rules(saved: str) -> Rules:
    """What to run to remove the engine's share of `iptables-save`'s text: first the rules, then the chains.

    A rule is the engine's if it stands in or jumps to one of its chains, or names one of its bridges.
    """
    rules: list[tuple[str, ...]] = []
    chains: list[tuple[str, ...]] = []
    table = ""
    for line in map(_words, saved.splitlines()):
        if not line:
            continue
        head = line[0]
        if head.startswith("*"):
            table = head[1:]
        elif head.startswith(":") and CHAIN.fullmatch(head[1:]):
            chains += [("-t", table, "-F", head[1:]), ("-t", table, "-X", head[1:])]
        elif head == "-A" and not CHAIN.fullmatch(line[1]) and _mentions(line[2:]):
            rules.append(("-t", table, "-D", *line[1:]))
    # All chains are emptied before the first is deleted: they jump to each other.
    flush = [chain for chain in chains if "-F" in chain]
    delete = [chain for chain in chains if "-X" in chain]
    return Rules(tuple(rules), tuple(flush + delete))


def forward_policy(saved: str) -> str:
    """The policy of the chain FORWARD in the table filter; ACCEPT where nothing is said."""
    match = re.search(r"^\*filter$.*?^:FORWARD (\S+)", saved, re.MULTILINE | re.DOTALL)
    return match[1] if match else "ACCEPT"


def _mentions(words: Sequence[str]) -> bool:
    return any(CHAIN.fullmatch(word) or BRIDGE.fullmatch(word) for word in words)


def _words(line: str) -> list[str]:
    # A comment line may hold a lone apostrophe; only rules are quoted.
    return shlex.split(line) if line.startswith("-A") else line.split()
