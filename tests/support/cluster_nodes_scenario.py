"""A cluster whose nodes come and go: run by test_cluster_nodes.py in namespaces of its own.

Prints one JSON object with what was seen; the test judges.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cluster_scenario import PROGRAM, Scenario, main

from tools.cluster.images import archive_images
from tools.cluster.layout import layout
from tools.shell import ToolError

ASK = """
import sys, urllib.request
for url in sys.argv[1:]:
    try:
        print(len(urllib.request.urlopen(url, timeout=3).read()) > 0)
    except OSError:
        print(False)
"""


def everywhere(image: str) -> str:
    """A pod that serves on each node, behind one service."""
    labels = {"app": "everywhere"}
    pod = {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [
            {
                "name": "serve",
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["python", "-c", PROGRAM.replace("/kept/", "/tmp/")],  # noqa: S108  inside the container
                "readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 1},
            }
        ],
    }
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "everywhere"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "everywhere"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def of(scenario: Scenario, nodes: int) -> Scenario:
    """The same cluster, to have so many nodes."""
    return replace(scenario, node=replace(scenario.node, layout=layout(nodes)))


def pods(scenario: Scenario, nodes: int) -> dict[str, tuple[str, str]]:
    """Name and address of the pod on each node; waits until there is a ready one on each."""
    deadline = time.monotonic() + 120
    while True:
        listed = json.loads(scenario.kubectl("get", "pods", "-l", "app=everywhere", "-o", "json").stdout)["items"]
        found = {
            pod["spec"]["nodeName"]: (pod["metadata"]["name"], pod["status"]["podIP"])
            for pod in listed
            if "deletionTimestamp" not in pod["metadata"]
            and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
        }
        if len(found) == nodes:
            return found
        if time.monotonic() > deadline:
            raise ToolError(f"a ready pod on {sorted(found)}, not on {nodes} nodes")
        time.sleep(0.5)


def reached(scenario: Scenario, there: dict[str, tuple[str, str]]) -> dict[str, dict[str, bool]]:
    """Node → what its pod reaches: the pod on each node by address, and the service by name."""
    result = {}
    targets = {node: f"http://{address}:8000" for node, (_, address) in there.items()}
    targets["service"] = "http://everywhere.default.svc.cluster.local"
    for node, (name, _) in there.items():
        said = scenario.kubectl("exec", name, "--", "python", "-c", ASK, *targets.values()).stdout.split()
        result[node] = dict(zip(targets, (word == "True" for word in said), strict=True))
    return result


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """What is not as it was: each with its process, or its pod, of then and of now."""
    return [f"{name}: {value}, then {after.get(name)}" for name, value in before.items() if after.get(name) != value]


def listed(scenario: Scenario) -> list[str]:
    """The cluster's nodes, by name."""
    return scenario.kubectl("get", "nodes", "-o", "name").stdout.split()


def play(scenario: Scenario) -> dict[str, object]:
    """One node, three, one of them cut off, two, none."""
    seen: dict[str, object] = {"before": scenario.traces()}
    image = archive_images(scenario.archive)[0].names[0]
    scenario.node.up()
    scenario.node.load([scenario.archive])
    scenario.kubectl("apply", "-f", "-", stdin=everywhere(image))
    first = pods(scenario, 1)
    running = scenario.components()

    three = of(scenario, 3)
    three.node.up()
    there = pods(three, 3)
    seen["three"] = listed(three)
    seen["touched by more nodes"] = [*changed(running, three.components()), *changed(first, there)]
    seen["reached"] = reached(three, there)
    running = three.components()
    three.node.up()
    again = three.components()
    seen["touched by nothing"] = [*changed(running, again), *changed(again, running)]

    three.node.cut("warren-2")
    near = {node: pod for node, pod in there.items() if node != "warren-2"}
    addresses = {node: f"http://{address}:8000" for node, (_, address) in there.items()}
    name = near["warren-3"][0]
    said = three.kubectl("exec", name, "--", "python", "-c", ASK, *addresses.values()).stdout.split()
    seen["cut"] = dict(zip(addresses, (word == "True" for word in said), strict=True))
    three.node.mend("warren-2")
    seen["mended"] = reached(three, pods(three, 3))

    two = of(scenario, 2)
    two.node.up()
    seen["two"] = listed(two)
    seen["two reached"] = reached(two, pods(two, 2))
    seen["components of two"] = sorted(name for name in two.components() if name.endswith("-3"))
    # Whoever takes the cluster down need not know how many nodes it has.
    scenario.node.down()
    seen["after"] = scenario.traces()
    return seen


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), Path(sys.argv[2]), play)
