"""The fork server: a small process that imports the handler once and forks a child for each place.

It is forked itself before the worker starts its first thread or opens its first connection, stays single-threaded and
holds no socket but the one to the worker. So each fork is safe, quick (the handler's modules are there already, and
shared), and no child inherits the broker's connection: when the worker dies, the broker sees it at once.

Messages, one JSON array a line. From the worker: `["fork"]` with the child's end of a socket beside it,
`["kill", pid]`.
To the worker: `["ready"]`, `["unusable", sentence]`, `["forked", pid]` (in the order asked), `["exited", pid, status]`.
"""

import array
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from warren_worker import child, handlers
from warren_worker.handler_error import HandlerError
from warren_worker.processes import die_with, kill_family, kill_group, kill_session
from warren_worker.recycling import Recycling
from warren_worker.task import Handler

log = logging.getLogger(__name__)

CONTROL_READ = 65_536
MAX_FDS = 64


def start(spec: str, recycling: Recycling, before: Callable[[], None]) -> tuple[int, socket.socket]:
    """Fork the server and return its process id and the control socket. Call this while there is only one thread.

    Args:
        spec: the handler's name.
        recycling: when a child makes way for a fresh one.
        before: run first in the new process, to undo what only the worker needs.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    status = 1
    try:
        before()
        ours.close()
        die_with(parent)
        status = _Server(theirs, spec, recycling).run()
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the worker is gone
    except BaseException:
        log.exception("the fork server ends by an error of its own")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Server:
    def __init__(self, control: socket.socket, spec: str, recycling: Recycling) -> None:
        self._control = control
        self._spec = spec
        self._recycling = recycling
        self._children: set[int] = set()
        self._inbox = bytearray()
        self._fds: deque[int] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def run(self) -> int:
        """Serve until the worker closes its end; the process's exit status."""
        os.setsid()  # signals to the worker's group (Ctrl+C) are the worker's to judge
        child.prepare_signals()
        child.spare_forks()  # before the handler's module, which may fork as well
        try:
            handler = handlers.load(self._spec)
        except HandlerError as error:
            self._tell("unusable", str(error))
            return 0
        gc.collect()
        gc.freeze()  # what is there now stays shared with the children: their collector does not touch it
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._tell("ready")
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for fd, _event in poll.poll():
                if fd == self._wake_read:
                    self._reap()
                elif not self._receive(handler):
                    self._kill_all()
                    return 0

    def _receive(self, handler: Handler) -> bool:
        data, ancillary, _flags, _address = self._control.recvmsg(CONTROL_READ, socket.CMSG_SPACE(MAX_FDS * 4))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._fds.extend(fds)
        if not data:
            return False
        self._inbox += data
        while (end := self._inbox.find(b"\n")) >= 0:
            message = json.loads(self._inbox[:end])
            del self._inbox[: end + 1]
            if message[0] == "fork":
                self._fork(handler, socket.socket(fileno=self._fds.popleft()))
            elif message[1] in self._children:
                kill_family(message[1])
        return True

    def _fork(self, handler: Handler, sock: socket.socket) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            sock.close()
            self._children.add(pid)
            self._tell("forked", pid)
            return
        self._be_child(handler, sock, parent)

    def _be_child(self, handler: Handler, sock: socket.socket, parent: int) -> NoReturn:
        try:
            os.setsid()  # a group and a session of its own: what a handler leaves behind in them ends with it
            die_with(parent)
            signal.set_wakeup_fd(-1)
            child.prepare_signals()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._control.close()
            for fd in self._fds:
                os.close(fd)
            child.serve(sock, handler, self._recycling)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, CONTROL_READ)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            if pid not in self._children:  # started by the handler's module when it was imported
                os.waitpid(pid, 0)
                continue
            # Before it is reaped its number cannot belong to anybody else: end what it left running.
            kill_group(pid)
            kill_session(pid)
            _, status = os.waitpid(pid, 0)
            self._children.discard(pid)
            self._tell("exited", pid, os.waitstatus_to_exitcode(status))

    def _kill_all(self) -> None:
        for pid in self._children:
            kill_family(pid)

    def _tell(self, *message: Any) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")


def _nothing(_number: int, _frame: object) -> None:
    """SIGCHLD only has to wake the poll."""
