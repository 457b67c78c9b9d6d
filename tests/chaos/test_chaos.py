"""Everything that is confirmed is completed or dead, whatever is done to workers, brokers, nodes and connections."""

import pytest
from chaos_run import NAMESPACE, SECONDS, judged, kube_of_the_cluster
from course import play
from kube import ROOT
from stage import stage

LIMIT = 1800
"""Seconds for this test with all of its setting up: nodes, brokers, five minutes of faults, and what has to be waited
for on a busy machine. It takes eight minutes on an idle one."""


@pytest.mark.timeout(LIMIT)
def test_what_is_confirmed_is_completed_or_dead(seed: int) -> None:
    images = ROOT / ".cluster" / "images.values.json"
    if not images.exists():
        pytest.fail("no images of the working copy in the cluster: run `make deploy` or `make test`")
    with stage(kube_of_the_cluster(NAMESPACE), images, seed) as given:
        problems = judged(play(given, SECONDS))
    assert problems == []
