"""`warren simulate`: what it takes, and what it prints. What needs the operator's packages is imported when it runs."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from warren_contract.durations import format_duration, parse_duration
from warren_operator.simulation.model import Timing
from warren_operator.simulation.trace import GRAMMAR

HELP = "replay a load against WorkQueues, KEDA and an HPA on a model of a cluster, and compare"

USAGE = 2

USUAL = ("backlogPerWorker=5", "keda-tuned")
"""Contenders where none are named: the chart's defaults, and the fastest that can usually be had instead."""

MODEL = (
    ("start", "from a pod's creation until it takes tasks, if it starts alone"),
    ("start_work", "how much of that is work of the processors"),
    ("stop", "until a pod that is to end, and does nothing, is gone"),
    ("patch", "from a decision of the operator until the replicas are changed"),
    ("overhead", "of a worker on each task, besides the work"),
)
"""Options that set the model's times; the others of `Timing` matter less."""

SPECS = """\
  task-queue.yaml                     a WorkQueue as `kubectl get workqueue task-queue -o yaml` prints it, a list of
                                      them, or the chart's values with `queues:`
  backlogPerWorker=5,maxReplicas=12   a WorkQueue in words; also maxWait=30s, minReplicas=1, concurrency=4,
                                      stabilization=30s, maxStep=5, timeLimit=25m
  keda  keda-tuned  hpa               rivals, with the target and the bounds of the first WorkQueue
  keda:target=5,pollingInterval=10s   and with their own: target, minReplicas, maxReplicas, concurrency,
                                      pollingInterval, cooldownPeriod, stabilization, sync, tolerance, steps=free,
                                      unacked=false, grace=30s"""

EPILOG = f"""\
TRACE is a file of at,duration[,queue] in seconds, one task a line (CSV, or JSON objects with these names; `at` may be
a Unix time or RFC 3339), or - for standard input, or words:
{GRAMMAR}

SPEC is one of
{SPECS}

examples:
  warren simulate burst:60x2s backlogPerWorker=5,maxReplicas=12 keda keda-tuned --picture burst.svg
  warren simulate sine:1-22/s,2s,24h backlogPerWorker=5,maxReplicas=60 maxWait=20s,maxReplicas=60
  kubectl get wq task-queue -o yaml > wq.yaml && warren simulate poisson:3/s,~4s,1h wq.yaml hpa

Nothing is contacted: it all happens on paper. Exit codes: 0 done, 2 wrong command line, trace or spec.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = HELP[0].upper() + HELP[1:] + "."
    parser.epilog = EPILOG.replace("%", "%%")
    parser.add_argument("trace", metavar="TRACE", help="the load: a file, -, or words")
    parser.add_argument("specs", metavar="SPEC", nargs="*", help=f"who scales ({' '.join(USUAL)})")
    parser.add_argument("--queue", help="only the tasks of this queue in the trace")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw backlog, workers and waits as an SVG file")
    parser.add_argument("--json", action="store_true", help="one JSON object a contender, a line each")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance (1)")
    parser.add_argument("--begin", type=_moment, metavar="TIME", help="when it begins, for schedules (RFC 3339; now)")
    group = parser.add_argument_group("the cluster", "measured on a small local one; put in what yours needs")
    for name, text in MODEL:
        usual = format_duration(getattr(Timing(), name))
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=_duration, metavar="DURATION", help=f"{text} ({usual})")
    group.add_argument(
        "--processors", type=_count, help=f"that pods share which start or end at once ({Timing().processors})"
    )
    group.add_argument("--nodes", type=_count, help=f"that the pods are spread over ({Timing().nodes})")


def run(args: argparse.Namespace) -> int:
    """Simulate and print; returns the exit code."""
    try:
        from warren_operator.simulation.comparison import Request, Unusable, compare  # noqa: PLC0415  as said above
    except ImportError as error:
        return _complain(f"simulate needs the operator's packages ({error}): pip install 'warren[operator]'")
    given = {name: getattr(args, name) for name, _ in MODEL if getattr(args, name) is not None}
    given |= {name: getattr(args, name) for name in ("processors", "nodes") if getattr(args, name) is not None}
    request = Request(
        trace=args.trace,
        specs=tuple(args.specs or USUAL),
        queue=args.queue,
        timing=Timing(**given),
        seed=args.seed,
        begin=args.begin,
        picture=args.picture,
        as_json=args.json,
    )
    try:
        print(compare(request, sys.stdin))
    except Unusable as error:
        return _complain(str(error))
    return 0


def _complain(message: str) -> int:
    print(f"warren: {message}", file=sys.stderr)
    return USAGE


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of them: write 2")
    return int(text)


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 2026-01-05T08:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
