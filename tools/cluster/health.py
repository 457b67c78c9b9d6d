"""Whether a component answers, asked from inside its network namespace."""

import http.client
import random
import socket
import ssl
import struct
from urllib.parse import urlsplit

from tools.cluster import netns

ANSWER_LIMIT = 3.0
"""Seconds. A component that is well answers within milliseconds; two cores that start ten pods at once take longer."""


def healthy(address: str, namespace: str) -> bool:
    """Whether the component's health address says that it is well; an empty address always does."""
    if not address:
        return True
    try:
        return netns.inside(namespace, lambda: _ask(address))
    except (OSError, http.client.HTTPException):
        return False


def _ask(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_LIMIT)
            connection.connect(parts.path)
        return True
    host = parts.hostname or ""
    if parts.scheme == "https":
        # On the loopback of a namespace that only we start things in, and some have a certificate that they made up
        # themselves at start: what matters here is that there is an answer, not who gives it.
        context = ssl._create_unverified_context()  # noqa: S323
        connection_: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=ANSWER_LIMIT, context=context
        )
    else:
        connection_ = http.client.HTTPConnection(host, parts.port, timeout=ANSWER_LIMIT)
    try:
        connection_.request("GET", parts.path)
        return connection_.getresponse().status == 200
    finally:
        connection_.close()


def dns_query(name: str, identifier: int) -> bytes:
    """A question for the IPv4 address of a name (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def dns_answered(reply: bytes, identifier: int) -> bool:
    """Whether a reply is to this question, without an error, and has an answer."""
    if len(reply) < 12:
        return False
    got, flags, _, answers, _, _ = struct.unpack("!6H", reply[:12])
    return got == identifier and bool(flags & 0x8000) and flags & 0x000F == 0 and answers > 0


def resolves(name: str, server: str, namespace: str) -> bool:
    """Whether the DNS server, asked from inside the namespace, knows the name."""

    def ask() -> bool:
        identifier = random.randrange(65536)  # noqa: S311 - tells replies apart, keeps no secret
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.settimeout(1)
            connection.connect((server, 53))
            connection.send(dns_query(name, identifier))
            return dns_answered(connection.recv(4096), identifier)

    try:
        return netns.inside(namespace, ask)
    except OSError:
        return False
