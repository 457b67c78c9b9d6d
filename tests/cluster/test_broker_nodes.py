"""Three brokers in an installed release, under load: they come, die, are rolled, and do not become one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART
from evidence_release import evidence_of, values
from kube import Kube
from release import install, remove
from steady_load import SteadyLoad
from waiting import eventually

QUEUE = "elder"
PODS = [f"warren-rabbitmq-{number}" for number in range(3)]

RECOVERY_LIMIT = 120.0
"""Seconds: clients of a broker that vanished notice after 20; the rest is for two cores that start a broker again."""


@dataclass(frozen=True)
class Given:
    """The release under test.

    Attributes:
        kube: its namespace.
        folder: for values files.
        images: values that name the images.
    """

    kube: Kube
    folder: Path
    images: Path

    def values(self, **broker: Any) -> Path:
        """A values file with these settings of the broker."""
        given = yaml.safe_load(values((QUEUE,)))
        given["worker"]["timeLimit"] = "10s"  # no worker may keep the release for longer than that, and a minute
        given["broker"] = {"resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}, **broker}
        path = self.folder / "values.yaml"
        path.write_text(yaml.safe_dump(given), "utf-8")
        return path

    def install(self, **broker: Any) -> None:
        """Install or upgrade, and wait until everything has rolled out."""
        install(self.kube, self.values(**broker), "--values", str(self.images))

    def pods(self) -> dict[str, tuple[str, int]]:
        """Uid and number of restarts of each broker's pod."""
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
            for pod in self.kube.get("pods", "--selector", "app.kubernetes.io/component=rabbitmq")
        }

    def queues(self) -> dict[str, dict[str, Any]]:
        """What a broker says of each durable queue of ours: leader, members, online."""
        columns = ("name", "type", "leader", "members", "online")
        said = self.kube.rabbitmqctl("list_queues", "--formatter", "json", *columns)
        return {row["name"]: row for row in json.loads(said) if row["name"] in (QUEUE, f"{QUEUE}.dead")}

    def wait_until_everywhere(self) -> dict[str, dict[str, Any]]:
        """Wait until each queue has a replica that keeps up on each of the three brokers."""

        def look() -> dict[str, dict[str, Any]]:
            found = self.queues()
            assert len(found) == 2, found
            assert all(len(row["online"]) == len(row["members"]) == 3 for row in found.values()), found
            return found

        return eventually(look, "all queues are on three brokers", limit=RECOVERY_LIMIT, every=1)


@pytest.fixture(scope="module")
def given(cluster: Kube, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """A release with one broker, in a namespace of its own."""
    kube = Kube(cluster.kubeconfig, f"{cluster.namespace}-brokers")
    remove(kube)
    given = Given(kube, tmp_path_factory.mktemp("brokers"), images)
    given.install()
    yield given
    remove(kube)


@contextmanager
def load(given: Given) -> Iterator[SteadyLoad]:
    """Short tasks, about ten a second; at the end everything that was confirmed has been done."""
    with evidence_of(given.kube) as evidence:
        eventually(lambda: evidence.release.queue(QUEUE)["exists"], "the operator has made the queue")
        load = SteadyLoad(
            client=evidence.release.http,
            queue=QUEUE,
            body=lambda _number: "0.05",
            completed=lambda tasks: {run.task for run in evidence.runs(tasks) if run.ended is not None},
            pause=0.1,
            every=1,
            limit=RECOVERY_LIMIT,
        )
        with load.running():
            yield load


def test_one_broker_becomes_three_and_runs_on(given: Given) -> None:
    before = given.pods()
    with load(given) as running:
        given.install(replicas=3)
        given.wait_until_everywhere()
        running.goes_on()
    after = given.pods()
    assert sorted(after) == PODS
    assert {name: after[name] for name in before} == before


def test_a_broker_that_is_killed_is_replaced_and_no_task_is_lost(given: Given) -> None:
    leader = str(given.wait_until_everywhere()[QUEUE]["leader"]).partition("@")[2].partition(".")[0]
    before = given.pods()
    with load(given) as running:
        given.kube.kubectl("delete", "pod", leader, "--grace-period=0", "--force")
        running.goes_on()
        given.kube.kubectl("rollout", "status", "statefulset/warren-rabbitmq", "--timeout=110s")
        given.wait_until_everywhere()
        running.goes_on()
    after = given.pods()
    assert {name for name in after if after[name] != before[name]} == {leader}


def test_an_upgrade_rolls_all_three_and_no_task_is_lost(given: Given) -> None:
    before = given.pods()
    with load(given) as running:
        given.install(replicas=3, podAnnotations={"rolled": "yes"})
        running.goes_on()
        given.wait_until_everywhere()
    after = given.pods()
    assert sorted(after) == PODS
    assert all(after[name][0] != before[name][0] for name in PODS)


def test_three_do_not_become_one(given: Given) -> None:
    before = given.pods()
    done = given.kube.run(
        *("helm", "upgrade", "warren", str(CHART), "--namespace", given.kube.namespace),
        *("--values", str(given.values(replicas=1)), "--values", str(given.images)),
        check=False,
    )
    assert done.returncode != 0
    assert "broker.replicas is 1, but RabbitMQ runs on 3 nodes here" in done.stderr
    assert "Set broker.replicas to 3" in done.stderr
    assert given.pods() == before
