"""The `warren` command as its user runs it, against a real producer and broker."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from brokers import Broker
from producers import PYTHON_PATH, READ_TOKEN, SUBMIT_TOKEN, Producer
from waiting import eventually


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "warren_cli", *arguments]


def environ(producer: Producer, token: str = SUBMIT_TOKEN) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": PYTHON_PATH,
        "WARREN_URL": producer.url,
        "WARREN_TOKEN": token,
    }


def warren(
    producer: Producer, *arguments: str, stdin: bytes = b"", token: str = SUBMIT_TOKEN
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command(*arguments), input=stdin, env=environ(producer, token), capture_output=True, timeout=60, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def messages(broker: Broker, queue: str) -> list[tuple[str | None, str | None, bytes]]:
    """Id, type and body of all tasks, taken out."""
    found = []
    with broker.channel() as channel:
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append((got[1].message_id, got[1].type, got[2]))
    return found


def test_words_files_and_pipes_become_tasks(
    broker: Broker, producer: Producer, work_queue: str, tmp_path: Path
) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(bytes(range(256)))
    one = warren(producer, "submit", "Hello", "World...", "-q", work_queue, "--type", "t")
    two = warren(producer, "submit", "--file", str(picture), "-q", work_queue)
    three = warren(producer, "submit", "-q", work_queue, stdin=b"from a pipe")
    many = warren(producer, "submit", "--lines", "-f", "-", "-q", work_queue, stdin=b"a.\n\nb..\n")
    printed = [done.stdout.split() for done in (one, two, three, many)]
    assert [done.returncode for done in (one, two, three, many)] == [0] * 4
    assert messages(broker, work_queue) == [
        (printed[0][0], "t", b"Hello World..."),
        (printed[1][0], None, bytes(range(256))),
        (printed[2][0], None, b"from a pipe"),
        (printed[3][0], None, b"a."),
        (printed[3][1], None, b"b.."),
    ]


def test_three_hundred_at_once(broker: Broker, producer: Producer, work_queue: str) -> None:
    done = warren(producer, "submit", "x", "--repeat", "300", "-q", work_queue)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(str(task_id) for task_id, _, _ in messages(broker, work_queue))


def test_lines_of_a_slow_pipe_are_submitted_as_they_come(producer: Producer, work_queue: str) -> None:
    with subprocess.Popen(
        command("submit", "--lines", "-q", work_queue),
        env=environ(producer),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for _ in range(2):
            running.stdin.write("a line\n")
            running.stdin.flush()
            assert running.stdout.readline().strip(), "its id, before the next line is there"
        running.stdin.close()
        assert running.wait(30) == 0


def test_refusals_are_one_sentence_with_a_remedy_and_code_1(producer: Producer, work_queue: str) -> None:
    unknown = warren(producer, "submit", "x", "-q", "there-is-no-such-queue")
    forbidden = warren(producer, "submit", "x", "-q", work_queue, token=READ_TOKEN)
    many = warren(producer, "submit", "x", "--repeat", "50", "-q", "there-is-no-such-queue")
    for done, words in (
        (unknown, "there-is-no-such-queue"),
        (forbidden, "may not submit"),
        (many, "there-is-no-such-queue"),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        line, *remedy = done.stderr.splitlines()
        if done is many:
            assert remedy.pop(0).startswith("Nothing after task ")
        assert len(remedy) <= 1
        assert line.startswith("warren: ")
        assert words in line


def test_watch_shows_the_count_and_ends_with_ctrl_c(producer: Producer, work_queue: str) -> None:
    with subprocess.Popen(
        command("watch", work_queue, "--json", "--interval", "50ms"),
        env=environ(producer, READ_TOKEN),
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline())["queues"][0]["ready"] == 0
        assert warren(producer, "submit", "x", "-q", work_queue).returncode == 0
        lines = iter(watch.stdout.readline, "")
        eventually(lambda: json.loads(next(lines))["queues"][0]["ready"] == 1, "the watch sees the task")
        watch.send_signal(signal.SIGINT)
        watch.stdout.read()
        assert watch.wait(30) == 0
