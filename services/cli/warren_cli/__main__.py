"""The `warren` command."""

import argparse
import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from warren_cli import arguments, commands
from warren_cli.client import Client, Refused, Unreachable, WarrenError
from warren_cli.credentials import Cluster, Scope, find_token
from warren_cli.explain import explanation
from warren_cli.submit import Interrupted, Unwritable, UsageError, submit
from warren_cli.view import table
from warren_cli.watch import Watch, look, sample_json, watch

OWN = frozenset({"submit", "watch", "explain", "queues"})
"""Commands for which no further ones are looked for."""

DONE, FAILED, USAGE, NOT_CURRENT, INTERRUPTED = 0, 1, 2, 3, 130

PIPE_WIDTH = 100_000
"""Columns where nobody sees any: what reads a pipe or a file wants names and lines as a whole."""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 refused or unreachable, 2 usage, 3 nothing current to
    explain, 130 interrupted.
    """
    environ = os.environ if environ is None else environ
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Where it cannot carry an arrow or a letter of another script, a question mark says more than a traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        found = () if argv and argv[0] in OWN else commands.installed()
        args = arguments.parser(environ, found).parse_args(argv)
        if "run" in args:
            return int(args.run(args))
        return _run(args, environ)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `| head` does.
        _drop_output()
        return FAILED


def _drop_output() -> None:
    """What could not be written is not tried again at the end, when Python would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    cluster = Cluster(namespace=args.namespace, context=args.context, secret=args.secret)
    scope: Scope = "submit" if args.command == "submit" else "read"
    try:
        token = find_token(environ, scope, cluster, args.token_file)
    except WarrenError as error:
        return _complain(str(error), USAGE)
    try:
        with Client(args.url, token, patience=getattr(args, "retry_for", 0.0)) as client:
            return _command(args, client)
    except UsageError as error:
        return _complain(str(error), USAGE)
    except WarrenError as error:
        if isinstance(error, Unwritable):
            _drop_output()
        by_user = isinstance(error, Interrupted) and error.by_user
        return _complain(_with_remedy(error, cluster), INTERRUPTED if by_user else FAILED)
    except BrokenPipeError:
        raise
    except OSError as error:  # whatever is read has words of its own
        _drop_output()
        return _complain(f"cannot write the answer: {error.strerror or error}", FAILED)


def _command(args: argparse.Namespace, client: Client) -> int:
    if args.command == "submit":
        started = time.monotonic()
        # Python has no standard input where there is none, as after `<&-`: then nobody pipes anything in.
        stdin, terminal = (io.BytesIO(), True) if sys.stdin is None else (sys.stdin.buffer, sys.stdin.isatty())
        count = submit(args, client, stdin, terminal=terminal, show=lambda task_id: print(task_id, flush=True))
        if count != 1 and sys.stderr.isatty():
            print(f"{count} tasks in {time.monotonic() - started:.1f} s into {args.queue}", file=sys.stderr)
        return DONE
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    if args.command == "queues":
        sample = look(client, None)
        if args.json:
            print(sample_json(sample))
        else:
            console.print(table(sample.queues))
        return DONE
    if args.command == "explain":
        status = client.queue(args.queue)
        if args.json:
            print(json.dumps(dataclasses.asdict(status)))
        else:
            width = console.width if console.is_terminal else None
            for line in explanation(status, now=time.time(), width=width):
                console.print(line, soft_wrap=True)
        return NOT_CURRENT if status.stale else DONE
    try:
        watch(client, Watch(args.queue, args.once, args.json, args.interval), console)
    except KeyboardInterrupt:
        # The way to end it, so nothing went wrong.
        return DONE
    return DONE


def _with_remedy(error: WarrenError, cluster: Cluster) -> str:
    lines = [str(error), *(error.details if isinstance(error, Interrupted) else ())]
    cause = error.__cause__ if isinstance(error.__cause__, WarrenError) else error
    if error.id is not None:
        lines.append(f"To submit it again under the same id: --id {error.id}")
    elif isinstance(cause, Unreachable) and cause.refused:
        command = " ".join(cluster.kubectl("port-forward", f"service/{cluster.producer}", "8080"))
        lines.append(f"If it runs in Kubernetes, forward its port in another terminal:\n  {command}")
    elif isinstance(cause, Refused) and cause.code == "queue_unknown":
        lines.append("The queues that there are: warren queues")
    return "\n".join(lines)


def _complain(message: str, code: int) -> int:
    print(f"warren: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
