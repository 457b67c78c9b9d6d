"""Chaos by hand: `make chaos MINUTES=60 SEED=7`. The report is written to build/chaos/."""

import argparse
import os
import random
import sys
from pathlib import Path

from course import play
from kube import ROOT, Kube
from report import page
from stage import REPORTS, stage
from told import Told

NAMESPACE = f"{os.environ.get('WARREN_TEST_NAMESPACE', 'warren-test')}-chaos"
SECONDS = 300.0
"""Of faults, in CI; by hand, as many minutes as are asked for."""


def kube_of_the_cluster(namespace: str) -> Kube:
    """The local cluster."""
    return Kube(ROOT / ".cluster" / "kubeconfig", namespace)


def write(told: Told) -> Path:
    """Write the report; returns where it is."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"report-{told.seed}.html"
    path.write_text(page(told), "utf-8")
    return path


def judged(told: Told) -> list[str]:
    """Write the report and say how it went; returns what does not balance. Before anything is cleared away."""
    page = write(told)
    print(told.verdict.summary())
    print(f"Report: {page}", flush=True)
    problems = told.verdict.problems()
    for problem in problems[:50]:
        print(f"PROBLEM: {problem}")
    if problems:
        print(f"{len(problems)} problems; repeat it with SEED={told.seed}", flush=True)
    return problems


def main() -> int:
    """Run, and report; the exit code is 1 where the ledger does not balance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=SECONDS / 60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--images", type=Path, default=ROOT / ".cluster" / "images.values.json")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with stage(kube_of_the_cluster(NAMESPACE), options.images, seed) as given:
        problems = judged(play(given, options.minutes * 60))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
