"""Connection parameters for pika, the same for every part."""

import socket
from typing import Any

import pika

from warren_contract.settings import BrokerSettings, SettingError

HEARTBEAT = 10
"""Seconds. The broker gives up on a peer after two silent intervals, so this decides how soon a task comes back whose
worker vanished without a word: its node lost, or its pod's network gone before the last packet. RabbitMQ's guide calls
5 to 20 s optimal for most environments; less brings false alarms. Each part has a thread or loop that does nothing slow
for its connection, so that a long task never misses a beat."""

BLOCKED_TIMEOUT = 30.0
"""Seconds that a publishing connection may be blocked by a memory or disk alarm before pika closes it."""

UNACKNOWLEDGED_LIMIT = 10.0
"""Seconds that the broker's host may leave bytes unacknowledged before the kernel gives the connection up (RFC 5482).

A broker whose host or network is gone says nothing, and heartbeats tell of that after 20 to 30 s only. The kernel sends
again after some 0.2 s and twice as long each time: by then it has tried five times. The same holds for a broker that
has not taken a byte for so long because of an alarm; what is in flight then has been waiting for as long."""

CONNECT_TIMEOUT = 10.0
"""Seconds for the TCP connect, and as long again for the AMQP handshake."""


def connection_parameters(
    settings: BrokerSettings,
    name: str,
    *,
    blocked_timeout: float | None = BLOCKED_TIMEOUT,
    unacknowledged_limit: float | None = UNACKNOWLEDGED_LIMIT,
) -> pika.ConnectionParameters:
    """Parameters for one connection attempt; retrying is the caller's, with `Backoff`.

    Args:
        settings: broker and credentials.
        name: shown in the broker's list of connections, for example `producer-7d4f publish`.
        blocked_timeout: seconds that the broker may block the connection for; None for consumers, never blocked.
        unacknowledged_limit: seconds without an acknowledgement of what was sent; None where heartbeats alone decide.

    Raises:
        SettingError: the authority's file cannot be used.
    """
    options: dict[str, Any] = {}
    if unacknowledged_limit is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # only Linux knows it
        options["tcp_options"] = {"TCP_USER_TIMEOUT": round(unacknowledged_limit * 1000)}
    if settings.tls:
        import ssl  # noqa: PLC0415  a worker's start is a tenth cheaper without

        cafile = None if settings.ca_file is None else str(settings.ca_file)
        try:
            context = ssl.create_default_context(cafile=cafile)
        except OSError as error:  # what ssl raises is one
            raise SettingError(f"WARREN_BROKER_CA_FILE={cafile!r} has no certificate in PEM form: {error}") from error
        options["ssl_options"] = pika.SSLOptions(context, settings.host)
    return pika.ConnectionParameters(
        host=settings.host,
        port=settings.port,
        virtual_host=settings.vhost,
        credentials=pika.PlainCredentials(settings.username, settings.password, erase_on_connect=True),
        heartbeat=HEARTBEAT,
        blocked_connection_timeout=blocked_timeout,
        connection_attempts=1,
        socket_timeout=CONNECT_TIMEOUT,
        stack_timeout=2 * CONNECT_TIMEOUT,
        client_properties={"connection_name": name, "product": "Warren"},
        **options,
    )
