"""`python -m warren_producer`: reads the settings, connects, serves until SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Generator, Mapping

import pika
import uvicorn

from warren_contract.connection import BLOCKED_TIMEOUT, connection_parameters
from warren_contract.logs import configure_logging
from warren_contract.settings import BrokerSettings, SettingError
from warren_producer.app import create_app
from warren_producer.descriptors import Room, make_room
from warren_producer.http import MAX_CONNECTIONS, BoundedProtocol
from warren_producer.metrics import Metrics
from warren_producer.observer import Observer
from warren_producer.outbox import Outbox
from warren_producer.publisher import Publisher
from warren_producer.queues import Board
from warren_producer.services import Services
from warren_producer.settings import ProducerSettings
from warren_producer.submit import Submit
from warren_producer.tokens import TokenFiles

log = logging.getLogger("warren_producer")

LINGER = 1.0
"""Seconds from SIGTERM in which requests are still taken: readiness says no, and each answer is the last one on its
connection. A connection that is closed as its next request arrives looks like a failure to its client."""

BACKLOG = 2048
"""Connections that the kernel holds while the process is busy."""


MANY_OBJECTS = 20_000
"""Objects more than at the last look for garbage in circles that bring the next one. A request leaves none; but with
hundreds in work at once a look would come every few of them, and find all their objects alive."""


class Server(uvicorn.Server):
    """uvicorn without its signal handling, which ends a graceful shutdown by the signal in place of exit code 0.

    And with one number for what the kernel holds, another for what is accepted in one turn of the event loop.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; asyncio takes the number of its turns, `Config.backlog`, for the kernel's as well."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to `serve`."""
        yield


def main() -> int:
    """Run the producer; returns the exit code: 0 after SIGTERM, 1 after a bug, 2 for wrong settings."""
    try:
        configure_logging(os.environ)
        settings = ProducerSettings.load(os.environ)
        connection_parameters(BrokerSettings.load(os.environ), settings.name)
        tokens = TokenFiles(settings.token_dir)
        room = make_room(MAX_CONNECTIONS)
        listener = listen(settings.http_port)
    except SettingError as error:
        print(f"warren_producer: {error}", file=sys.stderr)
        return 2
    return asyncio.run(serve(settings, os.environ, tokens, listener, room))


def graceful_limit(submit_timeout: float) -> int:
    """Seconds to answer what was accepted: a submit of this moment has the time for its body and for its confirm."""
    return math.ceil(2 * submit_timeout) + 1


def listen(port: int) -> socket.socket:
    """A listening socket on every address, IPv6 and IPv4 where the machine has both.

    Raises:
        SettingError: the port cannot be used.
    """
    for family, both in ((socket.AF_INET6, True), (socket.AF_INET, False)):
        if both and not socket.has_dualstack_ipv6():
            continue
        try:
            listener = socket.create_server(("", port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            if both:
                continue  # IPv6 may be switched off in the kernel
            raise SettingError(
                f"WARREN_HTTP_PORT={port} cannot be used: {error.strerror}: choose another port"
            ) from error
        # Inherited by each connection. asyncio sets it only where it made the socket itself, and without it the second
        # segment of an answer waits up to 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    raise AssertionError("the loop ends with a return or an error")


async def serve(
    settings: ProducerSettings, environ: Mapping[str, str], tokens: TokenFiles, listener: socket.socket, room: Room
) -> int:
    """Serve until SIGTERM or SIGINT, answer what was accepted, and return the exit code."""

    def parameters(purpose: str, blocked_timeout: float | None) -> pika.ConnectionParameters:
        name = f"{settings.name} {purpose}"
        return connection_parameters(BrokerSettings.load(environ), name, blocked_timeout=blocked_timeout)

    outbox = Outbox()
    publisher = Publisher(lambda: parameters("publish", BLOCKED_TIMEOUT), outbox, limit=settings.submit_timeout)
    board = Board()
    observer = Observer(lambda: parameters("read", None), board, outbox.resync)
    services = Services(
        publisher=publisher,
        observer=observer,
        board=board,
        tokens=tokens,
        metrics=Metrics(lambda: publisher.in_flight, lambda: publisher.obstacle is None, lambda: observer.connected),
        max_body=settings.max_body,
        queue_max_body=settings.queue_max_body,
        submit_timeout=settings.submit_timeout,
    )

    class SubmitProtocol(BoundedProtocol):
        shortcut = Submit(services)
        max_connections = room.connections

    server = Server(
        uvicorn.Config(
            create_app(services),
            http=SubmitProtocol,
            backlog=room.at_once,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=graceful_limit(settings.submit_timeout),
        )
    )

    def stop() -> None:
        log.info("shutting down" if not services.draining else "shutting down at once")
        server.force_exit = services.draining
        if services.draining:
            server.should_exit = True
        services.draining = True
        loop.call_later(LINGER, end)

    def end() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    # The image's entry point blocks it while the interpreter starts: the first process of a container never gets a
    # SIGTERM that it has no handler for, and its pod would stay for the whole grace period.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    web = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    helpers = [
        asyncio.create_task(publisher.run(), name="publisher"),
        asyncio.create_task(observer.run(), name="observer"),
    ]
    # What is there by now stays: a look at all of it would stop every request for a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(MANY_OBJECTS)
    log.info("listening on port %d", settings.http_port)
    await asyncio.wait([web, *helpers], return_when=asyncio.FIRST_COMPLETED)
    failed = False
    for task in helpers:
        if task.done():
            # They end by a bug only. Without them the API would refuse everything: let Kubernetes start afresh.
            log.error("%s ended: exiting", task.get_name(), exc_info=task.exception())
            failed = True
            server.should_exit = True
    await web
    for task in helpers:
        task.cancel()
    await asyncio.wait(helpers)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
