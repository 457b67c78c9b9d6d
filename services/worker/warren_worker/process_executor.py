"""Handlers in child processes: a hard time limit, and a crash that costs one attempt instead of the worker."""

import copyreg
import json
import logging
import signal
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from pika.compat import long

from warren_worker import wire
from warren_worker.executor import Job, Reports
from warren_worker.loop import READ, WRITE, Loop, remove
from warren_worker.verdict import DONE, Failed, Outcome

log = logging.getLogger(__name__)

READ_SIZE = 65_536

SERVER_GONE = "the fork server has ended: see above, or the node's log for a kill for lack of memory"

SOCKET_BUFFER = 262_144
"""Bytes asked of the kernel for each direction, so that all but the largest tasks go in one write."""

_NOTHING = memoryview(b"")

# pika reads numbers of 64 bits, such as many a header is, as a type of its own. Pickled as that, they would have each
# child import pika, asyncio and ssl at its first task: 0.1 s of CPU time and 9 MiB.
copyreg.pickle(long, lambda number: (int, (int(number),)))  # type: ignore[arg-type, return-value]  # no `long` on purpose


class _Place:
    """One child and what it is doing. The task is written at once, before the child was even forked: a socket waits."""

    __slots__ = ("answer", "closed", "leaving", "outbox", "pid", "sock", "ticket", "verdict_by_force")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid: int | None = None
        self.ticket: int | None = None
        self.outbox = _NOTHING
        """What is left of a task to write; a view, since a copy for each piece of a large one would take long."""
        self.answer = bytearray()
        self.verdict_by_force: Outcome | None = None
        self.closed = False
        self.leaving = False


class ProcessExecutor:
    """A child for each task at once, forked by the fork server and used again for the next task.

    After a crash the next child is forked when there is a task for it, not before: children that cannot live cost
    attempts, at the pace of the retry policy, and never make a storm of forks.
    """

    def __init__(self, loop: Loop, control: socket.socket, concurrency: int) -> None:
        self._loop = loop
        self._control = control
        self._concurrency = concurrency
        self._reports: Reports | None = None
        self._inbox = bytearray()
        self._idle: list[_Place] = []
        self._forking: deque[_Place] = deque()
        self._places: dict[int, _Place] = {}
        self._by_pid: dict[int, _Place] = {}
        self._busy: dict[int, _Place] = {}
        self._closed = False

    def start(self, reports: Reports) -> None:
        """Wait for the fork server, which is importing the handler."""
        self._reports = reports
        self._control.setblocking(False)
        self._loop.add_handler(self._control.fileno(), self._on_control, READ)

    def submit(self, job: Job) -> None:
        """Send a job to an idle child."""
        data = wire.encode_job(job)
        while not self._closed:  # it may turn out here that the fork server is gone; then the worker has its jobs back
            place = self._idle.pop() if self._idle else self._new_place()
            try:
                sent = place.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:  # it died while it was idle: no fault of this task
                self._lost(place)
                continue
            place.ticket = job.ticket
            self._busy[job.ticket] = place
            if sent < len(data):
                place.outbox = memoryview(data)[sent:]
                self._loop.update_handler(place.sock.fileno(), READ | WRITE)
            return

    def kill(self, ticket: int, outcome: Outcome) -> bool:
        """Kill the child and what it started (see `processes.kill_family`); the report follows when it is dead."""
        place = self._busy.get(ticket)
        if place is not None and place.verdict_by_force is None:
            place.verdict_by_force = outcome
            self._kill(place)
        return True

    def close(self) -> None:
        """Close all sockets: the fork server kills the children and ends."""
        if self._closed:
            return
        self._closed = True
        for place in list(self._places.values()):
            self._drop(place)
        remove(self._loop, self._control)

    def server_ended(self) -> None:
        """The fork server is dead, as its parent has learned.

        Its socket need not tell: what the handler's module started when it was imported may hold the far end open.
        """
        while not self._closed and self._read_control():  # what it said before it died counts
            pass
        self._broken(SERVER_GONE)

    def _new_place(self) -> _Place:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        ours.setblocking(False)
        place = _Place(ours)
        self._places[ours.fileno()] = place
        self._loop.add_handler(ours.fileno(), self._on_child, READ)
        self._forking.append(place)
        with theirs:
            self._ask("fork", fd=theirs.fileno())
        return place

    def _ask(self, *message: Any, fd: int | None = None) -> None:
        """Tell the fork server; it reads at once, and some hundred short lines fit into the socket."""
        data = json.dumps(message).encode() + b"\n"
        try:
            if fd is None:
                self._control.send(data)
            else:
                socket.send_fds(self._control, [data], [fd])
        except OSError as error:
            self._broken(f"the fork server cannot be reached: {error}")

    def _kill(self, place: _Place) -> None:
        if place.pid is not None:  # else as soon as the fork server tells its process id
            self._ask("kill", place.pid)

    def _on_control(self, _fd: int, _events: int) -> None:
        self._read_control()

    def _read_control(self) -> bool:
        """Take in a piece of what the fork server says; False where there is nothing, or nothing more to come."""
        try:
            data = self._control.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._broken(SERVER_GONE)
            return False
        self._inbox += data
        while not self._closed and (end := self._inbox.find(b"\n")) >= 0:
            message = json.loads(self._inbox[:end])
            del self._inbox[: end + 1]
            self._on_message(message)
        return True

    def _on_message(self, message: list[Any]) -> None:
        assert self._reports is not None  # noqa: S101  for the type checker: start() came first
        match message:
            case ["ready"]:
                self._idle += [self._new_place() for _ in range(self._concurrency)]
                self._reports.on_ready()
            case ["unusable", str(sentence)]:
                self._closed = True
                remove(self._loop, self._control)
                self._reports.on_broken(sentence, at_start=True)
            case ["forked", int(pid)]:
                place = self._forking.popleft()
                place.pid = pid
                self._by_pid[pid] = place
                if place.closed or place.verdict_by_force is not None:
                    self._kill(place)
            case ["exited", int(pid), int(status)]:
                self._on_exit(self._by_pid.pop(pid), status)

    def _on_child(self, fd: int, events: int) -> None:
        place = self._places[fd]
        if events & WRITE and place.outbox:
            self._flush(place)
        if events & READ:
            self._receive(place)

    def _receive(self, place: _Place) -> bool:
        """Read a piece of what the child says; False where there is nothing, or nothing more to come."""
        try:
            data = place.sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lost(place)
            return False
        if data == wire.DONE_FRAME and not place.answer:
            self._ended(place, DONE)
            return True
        place.answer += data
        try:
            while (answer := wire.decode_answer(place.answer)) is not None:
                if isinstance(answer, wire.Leaving):
                    place.leaving = True
                elif not isinstance(answer, wire.ProgressReport):
                    self._ended(place, answer)
                elif place.ticket is not None and self._reports is not None:
                    self._reports.on_progress(place.ticket, answer.done, answer.note)
        except wire.WireError as error:
            place.verdict_by_force = Failed("Crash", f"the handler's process wrote to the worker's socket: {error}")
            self._lost(place)
            return False
        return True

    def _flush(self, place: _Place) -> None:
        try:
            sent = place.sock.send(place.outbox)
        except BlockingIOError:
            return
        except OSError:
            place.outbox = _NOTHING
        else:
            place.outbox = place.outbox[sent:]
        if not place.outbox:
            self._loop.update_handler(place.sock.fileno(), READ)

    def _ended(self, place: _Place, outcome: Outcome) -> None:
        ticket = place.ticket
        if ticket is None or place.verdict_by_force is not None:
            return  # an answer without a question, or too late: it is being killed, and the report comes with its end
        place.ticket = None
        del self._busy[ticket]
        # Told first: if the next one cannot be forked, the worker has all tasks back that have not ended.
        if self._reports is not None:
            self._reports.on_end(ticket, outcome)
        if place.leaving:
            self._drop(place)
            if self._closed:
                return
            # The next one is forked before there is a task for it: this one has shown that it can live.
            place = self._new_place()
        self._idle.append(place)

    def _lost(self, place: _Place) -> None:
        """Its end of the socket is closed: it is dead or as good as dead, and its exit status will tell."""
        self._drop(place)
        self._kill(place)

    def _drop(self, place: _Place) -> None:
        if not place.closed:
            place.closed = True
            del self._places[place.sock.fileno()]
            remove(self._loop, place.sock)
            with suppress(ValueError):
                self._idle.remove(place)

    def _on_exit(self, place: _Place, status: int) -> None:
        self._drain(place)
        self._drop(place)
        ticket = place.ticket
        if ticket is None and place.leaving:
            return
        if ticket is None:
            log.warning("an idle handler process ended: %s", describe_exit(status))
            return
        del self._busy[ticket]
        if self._reports is not None:
            self._reports.on_end(ticket, place.verdict_by_force or Failed("Crash", describe_exit(status)))

    def _drain(self, place: _Place) -> None:
        """Read all that the child answered before it died: a task that was done is done."""
        while not place.closed and place.verdict_by_force is None and self._receive(place):
            pass
        with suppress(ValueError):
            self._idle.remove(place)

    def _broken(self, sentence: str) -> None:
        if not self._closed:
            self.close()
            if self._reports is not None:
                self._reports.on_broken(sentence, at_start=False)


def describe_exit(status: int) -> str:
    """An exit status for people; negative numbers are signals, as `os.waitstatus_to_exitcode` gives them."""
    if status >= 0:
        return f"the handler's process ended by itself with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ": perhaps it needed more memory than it may use" if -status == signal.SIGKILL else ""
    return f"the handler's process was killed by {name}{hint}"
