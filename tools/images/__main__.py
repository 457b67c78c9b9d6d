"""`python -m tools.images build|bases|list`: the images by hand."""

import argparse
import sys
from dataclasses import asdict

from tools.console import Console
from tools.engine import ensure
from tools.images.bases import bases
from tools.images.build import build
from tools.shell import ToolError


def main() -> int:
    """Run the command; its result, one name a line, goes to standard output."""
    parser = argparse.ArgumentParser(prog="python -m tools.images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build our three images, those that changed")
    base = commands.add_parser("bases", help="provide the base images, official or stand-ins")
    base.add_argument("--ask-again", action="store_true", help="try the registry again although it refused lately")
    base.add_argument("--rebuild", action="store_true", help="make the stand-ins anew, with today's packages")
    commands.add_parser("list", help="the images of Warren that the engine has")
    options = parser.parse_args()
    console = Console()
    try:
        if options.command == "build":
            for name in build(console).values():
                print(name)
        elif options.command == "bases":
            found = bases(console, ask_again=options.ask_again, rebuild=options.rebuild)
            for kind, name in asdict(found).items():
                print(f"{kind} {name}")
        else:
            engine = ensure(console)
            template = "{{.Repository}}:{{.Tag}}\t{{.Size}}\t{{.ID}}"
            for names in ("warren/*", "warren-stand-in/*"):
                print(engine.run("image", "ls", "--filter", f"reference={names}", "--format", template).stdout, end="")
    except ToolError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
