"""The command line: what can be said, and how it is checked."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from warren_cli import commands as further
from warren_cli.client import DEFAULT_QUEUE, check_header_text
from warren_cli.credentials import NAMESPACE, SECRET
from warren_contract.durations import parse_duration
from warren_contract.ids import check_task_id
from warren_contract.names import check_queue_name
from warren_contract.settings import duration, shown, whole_number
from warren_contract.task import MAX_PRIORITY

DEFAULT_URL = "http://localhost:8080"


def parser(environ: Mapping[str, str], found: Iterable[EntryPoint] = ()) -> argparse.ArgumentParser:
    """The parser of `warren`.

    Args:
        environ: has the defaults.
        found: commands of other parts.
    """
    common = _common(environ)
    top = argparse.ArgumentParser(
        prog="warren",
        description="Submit tasks to Warren and watch the workers follow the backlog.",
        epilog="Exit codes: 0 done, 1 refused or unreachable, 2 wrong command line or no token, 3 (explain) nothing "
        "current to explain.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_submit(commands, common)
    _add_watch(commands, common)
    _add_explain(commands, common)
    queues = commands.add_parser("queues", parents=[common], help="show all queues once")
    queues.add_argument("--json", action="store_true", help="one JSON object")
    further.add(commands, found)
    return top


def _common(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("where Warren is")
    url = environ.get("WARREN_URL") or DEFAULT_URL
    group.add_argument("--url", type=_checked(_address), default=url, help=f"the producer (WARREN_URL; {DEFAULT_URL})")
    group.add_argument("--token-file", type=Path, help="has the token (else WARREN_TOKEN, else read by kubectl)")
    group.add_argument("-n", "--namespace", default=NAMESPACE, help=f"of the installation, for kubectl ({NAMESPACE})")
    group.add_argument("--context", help="of the kubeconfig, for kubectl (the current one)")
    group.add_argument("--secret", default=SECRET, help=f"that has the tokens ({SECRET})")
    return common


def _add_submit(commands: Any, common: argparse.ArgumentParser) -> None:
    submit = commands.add_parser(
        "submit",
        parents=[common],
        help="submit tasks and print their ids",
        description="Submit a task: the words joined by spaces, a file, or standard input. Prints the id of each task "
        "once the broker has it safely.",
    )
    submit.add_argument(
        "text", nargs="*", metavar="TEXT", help="the task; each dot is a second of work for `dots` workers"
    )
    submit.add_argument(
        "-q", "--queue", type=_checked(check_queue_name), default=DEFAULT_QUEUE, help=f"({DEFAULT_QUEUE})"
    )
    submit.add_argument("-f", "--file", help="take the task from this file; - is standard input")
    submit.add_argument(
        "--lines", action="store_true", help="each line of the input is a task; blank lines are skipped"
    )
    submit.add_argument(
        "--repeat", type=_checked(whole_number(1, 1_000_000)), default=1, metavar="N", help="submit it N times"
    )
    submit.add_argument("--type", type=_checked(_text), help="name of the handler, where one queue serves several")
    submit.add_argument(
        "--priority",
        type=_checked(whole_number(0, MAX_PRIORITY)),
        help=f"0 to {MAX_PRIORITY}; {MAX_PRIORITY} is served first",
    )
    submit.add_argument(
        "--expiration", type=_duration_text, metavar="DURATION", help="dead-letter it unworked after this time"
    )
    submit.add_argument("--correlation-id", type=_checked(_text), metavar="ID", help="your own")
    submit.add_argument(
        "--content-type",
        type=_checked(_text),
        metavar="TYPE",
        help="of the task (text/plain, or application/octet-stream of a file)",
    )
    submit.add_argument(
        "-H", "--header", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="of the task's own"
    )
    submit.add_argument(
        "--id",
        type=_checked(check_task_id),
        help="of the task, for a caller that may have to submit it again (a new UUIDv7)",
    )
    submit.add_argument(
        "--retry-for",
        type=_checked(_patience),
        default=60.0,
        metavar="DURATION",
        help="try again on a 503, or where there is no answer, for this long (1m)",
    )


def _add_watch(commands: Any, common: argparse.ArgumentParser) -> None:
    watch = commands.add_parser("watch", parents=[common], help="watch backlog and workers live; Ctrl-C ends it")
    watch.add_argument("queue", nargs="?", type=_checked(check_queue_name), help="only this queue")
    watch.add_argument("--once", action="store_true", help="show it once")
    watch.add_argument("--json", action="store_true", help="one JSON object a look, on a line of its own")
    watch.add_argument(
        "--interval", type=_checked(duration), default=1.0, metavar="DURATION", help="between two looks (1s)"
    )


def _add_explain(commands: Any, common: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain",
        parents=[common],
        help="say why a queue has the workers that it has",
        description="Say why a queue has the workers that it has: what the operator sees, which rule asks for how "
        "many, what holds it back, what would change it, and the last ten changes.",
        epilog="Exit codes: 0 explained, 1 queue unknown, refused or unreachable, 2 wrong command line or no token, "
        "3 the operator has not told of the queue, or not for a while.",
    )
    explain.add_argument("queue", type=_checked(check_queue_name), metavar="QUEUE")
    explain.add_argument("--json", action="store_true", help="one JSON object")


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """argparse shows the message of an ArgumentTypeError, and hides a ValueError's."""

    def check(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return check


def _address(text: str) -> str:
    try:
        url = urlsplit(text)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and "@" not in url.netloc
    except ValueError:  # a port that is none, or half of an IPv6 address
        good = False
    if not good or " " in text or not text.isprintable():
        raise ValueError(f"{shown(text)!r} is no address of a producer: write one such as {DEFAULT_URL} (WARREN_URL)")
    return text


def _text(text: str) -> str:
    check_header_text(text)
    return text


def _duration_text(text: str) -> str:
    _checked(duration)(text)
    return text


def _patience(text: str) -> float:
    return parse_duration(text)


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no header: write NAME=VALUE")
    return name, str(_checked(_text)(value))
