"""Commands that other parts of Warren bring along: modules in the entry-point group `warren.commands`.

They stand apart since the command line imports nothing but the contract, and since they may need packages that are not
installed with it. They are looked for only when none of the command line's own is asked for: looking takes time.
"""

import argparse
import functools
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

GROUP = "warren.commands"

USAGE = 2


class Command(Protocol):
    """What such a module has.

    Attributes:
        HELP: one line.
    """

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what the command takes."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


def installed() -> Iterable[EntryPoint]:
    """The commands that are installed beside the command line."""
    return entry_points(group=GROUP)


def add(commands: Any, found: Iterable[EntryPoint]) -> None:
    """Add them to the parser's subcommands; `args.run` is then what carries the command out.

    Args:
        commands: of `ArgumentParser.add_subparsers`.
        found: the entry points.
    """
    for point in sorted(found, key=lambda point: point.name):
        try:
            module: Command = point.load()
        except ImportError as error:
            parser = commands.add_parser(point.name, add_help=False, help=f"(not usable: {error})")
            parser.add_argument("rest", nargs=argparse.REMAINDER)
            parser.set_defaults(run=functools.partial(_not_usable, point.name, error))
        else:
            parser = commands.add_parser(point.name, help=module.HELP)
            module.add_arguments(parser)
            parser.set_defaults(run=module.run)


def _not_usable(name: str, error: ImportError, _args: argparse.Namespace) -> int:
    print(f"warren: {name} needs more packages ({error}): pip install 'warren[operator]'", file=sys.stderr)
    return USAGE
