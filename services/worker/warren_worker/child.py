"""A handler's process: reads a task, runs it, answers, and again, until the socket closes."""

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from warren_worker import attempt, wire
from warren_worker.forks import defaults_in_forks
from warren_worker.recycling import Recycling
from warren_worker.task import Handler
from warren_worker.verdict import Failed

log = logging.getLogger(__name__)

READ_SIZE = 65_536
"""Bytes; small tasks arrive in one read."""

LEFT_TO_THE_WORKER = (signal.SIGTERM, signal.SIGINT)
"""Signals that end no task."""


def serve(sock: socket.socket, handler: Handler, recycling: Recycling) -> NoReturn:
    """Work until the worker closes its end; never returns."""
    status = 1
    try:
        _work(sock, handler, recycling)
        status = 0
    except OSError:
        # The worker is gone: nobody waits for an answer, and the broker hands the task to somebody else.
        status = 0
    except BaseException:
        log.exception("the handler's process ends by an error of its own")
    finally:
        _flush()
        # Not sys.exit: what the fork server and the handler's module registered for exit is the fork server's.
        os._exit(status)


def prepare_signals() -> None:
    """Leave it to the worker alone when a task ends.

    A function that does nothing rather than SIG_IGN: programs that a handler starts must not inherit deafness.
    """
    for number in LEFT_TO_THE_WORKER:
        signal.signal(number, _nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def spare_forks() -> None:
    """Let the handler end what it forks: the fork server calls this once, for all that come after it.

    Its own children are forks, too, and call `prepare_signals` for themselves.
    """
    defaults_in_forks(LEFT_TO_THE_WORKER, _nothing)


def _flush() -> None:
    """Write out what was printed; a handler may have closed either of them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _nothing(_number: int, _frame: object) -> None:
    """See `prepare_signals`."""


def _work(sock: socket.socket, handler: Handler, recycling: Recycling) -> None:
    def report(done: float, note: str) -> None:
        sock.sendall(wire.encode_progress(done, note))

    process = os.getpid()
    tasks = 0
    while True:
        frame = _read(sock)
        if frame is None:
            return
        outcome = attempt.run(handler, wire.decode_job(frame, report))
        if os.getpid() != process:
            # A copy that the handler forked, and that returned as well. The answer is the first one's to give: a second
            # one would be taken for the answer to the next task.
            return
        if isinstance(outcome, Failed):
            # What the handler printed comes before the worker's line about its failure.
            _flush()
        tasks += 1
        if why := recycling.due(tasks):
            log.info("a handler process ends after %s; a fresh one takes its place", why)
            _flush()
            sock.sendall(wire.LEAVING_FRAME + wire.encode_answer(outcome))
            return
        sock.sendall(wire.encode_answer(outcome))


def _read(sock: socket.socket) -> bytes | bytearray | None:
    """One whole job frame; None at the end."""
    data = sock.recv(READ_SIZE)
    size = wire.job_size(data)
    if size == len(data):
        return data
    buffer = bytearray(data)
    while size is None or len(buffer) < size:
        if not data:
            return None
        data = sock.recv(READ_SIZE)
        buffer += data
        size = wire.job_size(buffer)
    return buffer
