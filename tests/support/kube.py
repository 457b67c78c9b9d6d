"""kubectl and port-forwards against one cluster, for tests."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

COMMAND_LIMIT = 120.0
"""Seconds for one kubectl call that does not wait for anything slow."""


@dataclass(frozen=True)
class Kube:
    """One namespace of one cluster.

    Attributes:
        kubeconfig: file that names the cluster.
        namespace: of all calls.
    """

    kubeconfig: Path
    namespace: str

    @property
    def environ(self) -> dict[str, str]:
        """Environment in which kubectl, helm and warren find the cluster."""
        path = f"{ROOT / '.cluster' / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def run(
        self, program: str, *arguments: str, stdin: str | None = None, limit: float = COMMAND_LIMIT, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl, helm or warren against this namespace."""
        result = subprocess.run(
            [program, *arguments],
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if check:
            assert result.returncode == 0, f"{program} {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result

    def kubectl(self, *arguments: str, stdin: str | None = None, limit: float = COMMAND_LIMIT) -> str:
        """What kubectl prints."""
        return self.run("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin, limit=limit).stdout

    def get(self, *arguments: str) -> Any:
        """An object, or the items of a list."""
        found = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found["items"] if found["kind"] == "List" or found["kind"].endswith("List") else found

    def patch(self, what: str, patch: dict[str, Any]) -> None:
        """Merge a patch into an object such as `workqueue/task-queue`."""
        self.kubectl("patch", what, "--type", "merge", "--patch", json.dumps(patch))

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's values."""
        template = '{{range $key, $value := .data}}{{$key}}={{$value | base64decode}}{{"\\n"}}{{end}}'
        lines = self.kubectl("get", "secret", name, "--output", f"go-template={template}").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def rabbitmqctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints in the first broker's pod."""
        return self.kubectl("exec", "warren-rabbitmq-0", "--", "rabbitmqctl", "--quiet", *arguments)

    def pods(self, component: str, *, running: bool = True) -> list[str]:
        """Names of a component's pods, sorted; only those that run and are not being deleted, unless told otherwise."""
        return sorted(
            pod["metadata"]["name"]
            for pod in self.get("pods", "--selector", f"app.kubernetes.io/component={component}")
            if not running or (pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"])
        )

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[int]:
        """A local port that leads to a port of a pod or service, through `kubectl port-forward`.

        kubectl ends where a connection fails under load; it is started again on the same port.
        """
        first = self._forward(target, f":{port}")
        assert first.stdout is not None
        line = first.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, f"kubectl port-forward {target} {port}: {line}"
        local = int(found[1])
        running = [first]
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(0.2):
                if running[-1].poll() is not None:
                    running[-1].communicate()
                    running.append(self._forward(target, f"{local}:{port}"))

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            yield local
        finally:
            ended.set()
            keeper.join(10)
            running[-1].terminate()
            running[-1].communicate(timeout=10)

    def _forward(self, target: str, ports: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["kubectl", "--namespace", self.namespace, "port-forward", target, ports],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
