"""The operator as a process: exit codes and sentences; and what it tells kopf about the cluster."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import kopf
import pytest
import yaml
from ports import free_port
from waiting import eventually

from warren_operator.handlers import connection, settings
from warren_operator.kube import find_cluster
from warren_operator.program import reason
from warren_operator.work_queues import NotWatched

LIMIT = 30.0
"""Seconds for a process to end; a second or two are normal."""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Settings with which the operator starts, though neither broker nor API server is there."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {"token": "t0ken"}}],
            }
        )
    )
    broker = {"HOST": "127.0.0.1", "PORT": "1", "VHOST": "/", "USERNAME": "u", "PASSWORD": "p"}
    return {
        **os.environ,
        **{f"WARREN_BROKER_{name}": value for name, value in broker.items()},
        "WARREN_BROKER_MANAGEMENT_URL": "http://127.0.0.1:1",
        "WARREN_NAMESPACES": "media",
        "WARREN_HEALTH_PORT": str(free_port()),
        "KUBECONFIG": str(path),
    }


@contextmanager
def operator(environ: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """The operator's process, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "warren_operator"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


def test_a_wrong_setting_is_one_sentence_and_exit_code_2(environ: dict[str, str]) -> None:
    with operator({**environ, "WARREN_HEALTH_PORT": "many"}) as process:
        printed, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert printed.startswith("warren-operator: WARREN_HEALTH_PORT")
    assert printed.count("\n") == 1


def test_a_part_that_fails_ends_the_process_with_its_error(environ: dict[str, str]) -> None:
    """Here the health endpoints, whose port is taken. Nothing hangs, and nothing looks alive."""
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104  as the operator does
        port = str(taken.getsockname()[1])
        with operator({**environ, "WARREN_HEALTH_PORT": port}) as process:
            printed, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "the operator failed" in printed
    assert "address already in use" in printed


def test_without_an_api_server_it_waits_says_so_and_ends_when_asked(environ: dict[str, str]) -> None:
    """kopf has not begun to watch by then: it would give up, and look for the definition once only."""
    url = f"http://127.0.0.1:{environ['WARREN_HEALTH_PORT']}"

    def answers() -> httpx.Response | None:
        try:
            return httpx.get(f"{url}/readyz")
        except httpx.TransportError:
            return None

    with operator(environ) as process:
        eventually(lambda: (a := answers()) and "cannot watch workqueues" in a.text, "it says what it waits for")
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert printed.count("cannot watch workqueues") == 1, "what lasts is told once"
    assert "Traceback" not in printed


def test_kopf_logs_in_as_the_operator_does(environ: dict[str, str]) -> None:
    async def logged_in() -> kopf.ConnectionInfo:
        return await connection(await find_cluster(environ))

    found = asyncio.run(logged_in())
    assert (found.server, found.scheme, found.token) == ("https://127.0.0.1:1", "Bearer", "t0ken")


def test_kopf_s_watch_ends_before_it_counts_as_dead() -> None:
    watching = settings().watching
    assert watching.server_timeout is not None
    assert watching.server_timeout + 10 < watching.inactivity_timeout


class Refusal(Exception):
    """As kopf raises it."""

    def __init__(self, status: int, message: str | None, text: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.message = message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Refusal(403, "you cannot watch"), "allow the operator's service account list and watch on workqueues (you"),
        (Refusal(404, None, "404 page not found\n"), "install the CustomResourceDefinition (404 page not found)"),
        (Refusal(503, None, "upstream connect error"), "upstream connect error; see what keeps the API server"),
        (Refusal(200, "unexpected mimetype"), ""),
        (NotWatched("media/a is listed"), "media/a is listed"),
        (ValueError("something else"), ""),
    ],
)
def test_the_reason_in_a_sentence(error: Exception, says: str) -> None:
    assert says in reason(error)
    assert bool(says) == bool(reason(error))
