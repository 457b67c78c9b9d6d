"""`python -m tools.engine up|down|status`: the Docker engine by hand."""

import argparse
import sys

from tools.console import Console
from tools.engine.client import answering
from tools.engine.daemon import down, ensure, ours
from tools.engine.places import places
from tools.shell import ToolError


def main() -> int:
    """Run the command; 0 is success, and for `status` that an engine answers."""
    parser = argparse.ArgumentParser(prog="python -m tools.engine", description=__doc__)
    parser.add_argument(
        "command",
        choices=("up", "down", "status"),
        help="up: find an engine, or install and start one; down: end the one that up started (its images stay in the "
        "cache); status: say what there is",
    )
    command = parser.parse_args().command
    console = Console()
    try:
        if command == "down":
            console.say("Docker engine: gone" if down(console) else "Docker engine: none of ours was there")
            return 0
        engine = ensure(console) if command == "up" else answering()
    except ToolError as error:
        print(error, file=sys.stderr)
        return 1
    if engine is None:
        print("No Docker engine answers. Start one: python -m tools.engine up", file=sys.stderr)
        return 1
    mine = f"started by Warren, images in {places().data}" if ours(places()) else "not started by Warren"
    print(f"Docker engine {engine.version} at {engine.host} ({mine})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
