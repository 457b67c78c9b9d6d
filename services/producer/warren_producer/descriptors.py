"""Open files: each connection is one, and a process that has none left cannot even reach its broker."""

import logging
import resource
from dataclasses import dataclass

log = logging.getLogger(__name__)

OWN = 64
"""Open files besides the clients' connections: both of the broker's, and another while it is built anew, the listening
socket, look-ups of names, tokens and settings that are read again, and what the interpreter has open."""

MAX_AT_ONCE = 128
"""Connections that are accepted in one turn of the event loop."""

TURNS = 4
"""Turns from accepting a connection until one too many is closed again: each of them may accept as many more."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections the process has open files for.

    Attributes:
        connections: that may be open at a time.
        at_once: that may be accepted in one turn of the event loop, on top.
    """

    connections: int
    at_once: int = MAX_AT_ONCE


def room_within(files: int, wanted: int) -> Room:
    """The room for `wanted` connections, or for fewer, in a process that may open so many files."""
    left = max(2, files - OWN)
    at_once = min(MAX_AT_ONCE, max(1, left // (2 * TURNS)))
    return Room(max(1, min(wanted, left - TURNS * at_once)), at_once)


def make_room(wanted: int) -> Room:
    """Raise the limit of open files as far as `wanted` connections need it, and as the system allows.

    Shells and systemd give 1,024, or 256 on macOS, for the sake of programs that use `select`; what they allow beyond
    that is anybody's to take.
    """
    needed = wanted + TURNS * MAX_AT_ONCE + OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError) as error:  # such as macOS, whose kernel may have a lower limit of its own
            log.info("the limit of %d open files stays: %s", soft, error)
    room = Room(wanted) if soft == resource.RLIM_INFINITY else room_within(soft, wanted)
    if room.connections < wanted:
        log.warning(
            "only %d files may be open here (RLIMIT_NOFILE), so that %d connections are taken at a time and not %d: "
            "allow %d files for all of them",
            soft,
            room.connections,
            wanted,
            needed,
        )
    return room
