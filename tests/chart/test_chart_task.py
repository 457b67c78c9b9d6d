"""What a user runs after an install, `helm test` and the command of the notes, over all token files there may be."""

import base64
import json
import os
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
from chart import CHART, KUBE_VERSION, find, helm, pod_spec, render, tool

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
    """A producer with one worker, which takes the task and does it."""

    tokens: ClassVar[list[str]]
    looks: ClassVar[int]

    def do_POST(self) -> None:
        """Take a task."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"id": "the-task"})

    def do_GET(self) -> None:
        """Tell the queue's state: first the worker has the task, then it has done it."""
        type(self).looks += 1
        running = [{"id": "the-task"}] if self.looks == 1 else []
        worker = {"worker": "w-1", "running": running, "finished": self.looks - 1}
        self.answer({"worker_states": [worker], "ready": 0, "unacked": 0, "delayed": 0, "dead": 0})

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
def workers() -> Iterator[tuple[str, list[str]]]:
    """The producer's address, and the tokens with which it was asked."""

    class Handler(Workers):
        tokens: ClassVar[list[str]] = []
        looks = 0

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


@pytest.mark.parametrize("files", [{}, {"read": SUBMIT}, {"submit": f"{SUBMIT} mail\n"}])
def test_the_test_says_that_it_has_no_token(files: dict[str, str], tmp_path: Path) -> None:
    with workers() as (url, seen):
        done = run_test_pod(tmp_path, files, url)
    assert done.returncode == 1
    assert done.stderr.strip() == "no token for task_queue: the Secret needs one under the key submit or admin"
    assert not seen


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Helm says after an install; without a cluster, a copy of the chart puts it into a ConfigMap."""
    copy = tmp_path_factory.mktemp("chart") / "warren"
    shutil.copytree(CHART, copy)
    text = (copy / "templates" / "NOTES.txt").read_text("utf-8")
    written = (
        '{{ define "notes" }}' + text + '{{ end }}{kind: ConfigMap, data: {notes: {{ include "notes" . | toJson }} }}'
    )
    (copy / "templates" / "notes.yaml").write_text(written, "utf-8")
    command = ("template", "warren", str(copy), "--namespace", "warren", "--show-only", "templates/notes.yaml")
    said = yaml.safe_load(helm(*command, "--kube-version", KUBE_VERSION))["data"]["notes"]
    assert isinstance(said, str)
    return said


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
