"""What a user runs after an install, `helm test` and the command of the notes, over all token files there may be."""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import yaml
from chart import CHART, KUBE_VERSION, Values, find, helm, pod_spec, render, tool

from warren_cli import arguments

SUBMIT, ADMIN, OTHER = ("t" + letter * 39 for letter in "abc")

TOKEN_FILES: list[tuple[dict[str, str], str]] = [
    ({"submit": SUBMIT, "admin": ADMIN}, SUBMIT),
    ({"submit": f"{SUBMIT} task_queue\n"}, SUBMIT),
    ({"submit": f"\n  \n{SUBMIT}\tmail task_queue\n{OTHER}\n"}, SUBMIT),
    ({"submit": f"{SUBMIT}\n{OTHER}\n"}, SUBMIT),
    ({"admin": f"{ADMIN}\n"}, ADMIN),
    ({"submit": "", "admin": ADMIN}, ADMIN),
]
"""Keys of the Secret, and the token that is to be used."""


class Workers(BaseHTTPRequestHandler):
    """A producer with one worker, which takes the task and does it; a silent one is gone before it says so."""

    tokens: ClassVar[list[str]]
    looks: ClassVar[int]
    silent: ClassVar[bool]

    def do_POST(self) -> None:
        """Take a task."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"id": "the-task"})

    def do_GET(self) -> None:
        """Tell the queue's state: first there is nobody, then the worker has the task, then it has done it."""
        type(self).looks += 1
        running = [{"id": "the-task"}] if self.looks == 2 else []
        worker = {"worker": "w-1", "running": running, "finished": self.looks - 2}
        there = [] if self.looks == 1 or (self.looks > 2 and self.silent) else [worker]
        self.answer({"worker_states": there, "ready": 0, "unacked": 0, "delayed": 0, "dead": 3})

    def answer(self, content: Any) -> None:
        """Say it in JSON."""
        self.tokens.append(self.headers["Authorization"].removeprefix("Bearer "))
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
        """Say nothing."""


@contextmanager
def workers(*, says_nothing: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The producer's address, and the tokens with which it was asked."""

    class Handler(Workers):
        tokens: ClassVar[list[str]] = []
        looks = 0
        silent = says_nothing

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", Handler.tokens
        server.shutdown()


def run_test_pod(folder: Path, files: Mapping[str, str], url: str) -> subprocess.CompletedProcess[str]:
    """Run the program of `helm test` as its pod does, with these files where the Secret is mounted."""
    pod = pod_spec(find(render(), "Pod", "warren-test-task"))
    assert pod is not None
    (volume,) = (item for item in pod["volumes"] if item["name"] == "token")
    keys = {item["key"]: item["path"] for item in volume["secret"].get("items", [])} or {key: key for key in files}
    assert keys.keys() <= files.keys(), "Kubernetes does not start a pod whose Secret lacks a key that is named"
    for key, path in keys.items():
        (folder / path).write_text(files[key], "utf-8")
    (container,) = pod["containers"]
    environ = {item["name"]: item["value"] for item in container["env"]}
    (mount,) = (item["mountPath"] for item in container["volumeMounts"] if item["name"] == "token")
    assert environ["WARREN_TOKEN_DIR"] == mount
    (program,) = container["args"]
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environ, "WARREN_URL": url, "WARREN_TOKEN_DIR": str(folder), "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("files", "token"),
    [
        *TOKEN_FILES,
        ({"submit": f"{OTHER} mail\n{SUBMIT} task_queue\n", "admin": ADMIN}, SUBMIT),
        ({"submit": f"{OTHER} mail", "admin": ADMIN}, ADMIN),
    ],
)
def test_the_test_finds_its_token(files: dict[str, str], token: str, tmp_path: Path) -> None:
    """The first one that is for its queue; a Secret of the user's own need not have every key."""
    with workers() as (url, seen):
        done = run_test_pod(tmp_path, files, url)
    assert done.returncode == 0, done.stderr
    assert "w-1 has done it" in done.stdout
    assert set(seen) == {token}


def test_dead_letters_of_others_do_not_hide_that_the_task_is_done(tmp_path: Path) -> None:
    """A worker may be gone, with its last word; that no task is left tells it then, whatever died long ago."""
    with workers(says_nothing=True) as (url, _):
        done = run_test_pod(tmp_path, {"submit": SUBMIT}, url)
    assert done.returncode == 0, done.stderr
    assert "w-1 is gone and has left no task behind" in done.stdout


@pytest.mark.parametrize("files", [{}, {"read": SUBMIT}, {"submit": f"{SUBMIT} mail\n"}])
def test_the_test_says_that_it_has_no_token(files: dict[str, str], tmp_path: Path) -> None:
    with workers() as (url, seen):
        done = run_test_pod(tmp_path, files, url)
    assert done.returncode == 1
    assert done.stderr.strip() == "no token for task_queue: the Secret needs one under the key submit or admin"
    assert not seen


STILL: list[dict[str, Any]] = [
    {"paused": True},
    {"suspend": True},
    {"mode": "Recommend"},
    {"replicas": {"max": 0}},
    {"handler": "shop:mail"},
]
"""What keeps a queue from being tried: nobody would take the task, or know what to make of it."""


@pytest.mark.parametrize("settings", STILL)
def test_the_test_is_for_a_queue_whose_workers_come(telling: Path, settings: dict[str, Any]) -> None:
    """Where there is none, there is no test, and Helm does not promise one after an install."""
    alone = {"queues": {"task_queue": settings}}
    assert not [item for item in render(alone) if item["kind"] == "Pod"]
    assert "helm test" not in told(telling, values=alone)
    values = {"queues": {"a": settings, "task_queue": settings, "z": {}}}
    pod = pod_spec(find(render(values), "Pod", "warren-test-task"))
    assert pod is not None
    assert {"name": "WARREN_QUEUE", "value": "z"} in pod["containers"][0]["env"]
    assert "`helm test warren -n warren` runs a task" in told(telling, values=values)


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart, which has what Helm says after an install in a ConfigMap: Helm says it to a cluster only."""
    copy = tmp_path_factory.mktemp("chart") / "warren"
    shutil.copytree(CHART, copy)
    text = (copy / "templates" / "NOTES.txt").read_text("utf-8")
    written = (
        '{{ define "notes" }}' + text + '{{ end }}{kind: ConfigMap, data: {notes: {{ include "notes" . | toJson }} }}'
    )
    (copy / "templates" / "notes.yaml").write_text(written, "utf-8")
    return copy


def told(chart: Path, release: str = "warren", namespace: str = "warren", values: Values | None = None) -> str:
    """What Helm says after this install."""
    command = ("template", release, str(chart), "--namespace", namespace, "--show-only", "templates/notes.yaml")
    said = yaml.safe_load(helm(*command, "--kube-version", KUBE_VERSION, values=values))["data"]["notes"]
    assert isinstance(said, str)
    return said


@pytest.fixture(scope="module")
def notes(telling: Path) -> str:
    """What Helm says with the chart's own values."""
    return told(telling)


def test_the_notes_submit_by_the_shortest_command(notes: str) -> None:
    """Where everything has the names that the command line takes by itself."""
    assert "or `warren submit 'Hello...'`, with `warren watch` for" in notes


@pytest.mark.parametrize(
    ("place", "values", "secret", "queue"),
    [
        (("jobs", "team"), {"queues": {"task_queue": None, "emails": {}}}, "jobs-warren-tokens", "emails"),
        (("warren", "team"), {}, "warren-tokens", "task_queue"),
        (("warren", "warren"), {"queues": {"emails": {}}}, "warren-tokens", "emails"),
        (("warren", "warren"), {"credentials": {"existingSecrets": {"tokens": "mine"}}}, "mine", "task_queue"),
    ],
)
def test_the_commands_of_the_notes_lead_to_this_release(
    telling: Path, place: tuple[str, str], values: Values, secret: str, queue: str
) -> None:
    """Both as the command line reads them; what it takes by itself is not said."""
    release, namespace = place
    notes = told(telling, release, namespace, values)
    commands = [shlex.split(line) for line in re.findall(r"`warren ([^`]*)`", notes)]
    assert [command[0] for command in commands] == ["submit", "watch"]
    for command in commands:
        read = arguments.parser({}).parse_args(command)
        assert (read.namespace, read.secret) == (namespace, secret)
        assert ("-n" in command, "--secret" in command) == (namespace != "warren", secret != "warren-tokens")
        if command[0] == "submit":
            assert (read.queue, "-q" in command, read.text) == (queue, queue != "task_queue", ["Hello..."])


@pytest.mark.parametrize(("create", "sure"), [("always", True), ("never", False), ("auto", False)])
def test_the_notes_promise_the_tutorial_s_scripts_only_where_its_user_is_made(
    telling: Path, create: str, sure: bool
) -> None:
    """Where the broker's users are not made here, the chart does not know whether it is among them."""
    values = {"credentials": {"create": create}, "broker": {"tutorialUser": {"enabled": True}}}
    notes = told(telling, values=values)
    assert ("The scripts of RabbitMQ's tutorial work as they are, through:" in notes) is sure
    assert ("Only if it was printed with\nbroker.tutorialUser.enabled=true is guest among them" in notes) is not sure


@pytest.mark.parametrize(("files", "token"), TOKEN_FILES)
def test_the_notes_find_a_token(notes: str, files: dict[str, str], token: str, tmp_path: Path) -> None:
    """The command, run as it is printed: in place of a cluster, kubectl reads a Secret from a file."""
    (line,) = (line for line in notes.splitlines() if line.startswith("  TOKEN="))
    data = {key: base64.b64encode(text.encode()).decode() for key, text in files.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "warren-tokens"}, "data": data}
    path = tmp_path / "secret.json"
    path.write_text(json.dumps(secret), "utf-8")
    asked = "kubectl -n warren get secret warren-tokens "
    assert asked in line
    local = line.replace(asked, f"{tool('kubectl')} label --local --filename {path} a=b ")
    done = subprocess.run(
        ["sh", "-euc", f'{local.strip()}\nprintf %s "$TOKEN"'], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == token, done.stderr
