"""A broker's name may have several addresses, and not each of them can even be tried.

A node without IPv6 has no socket for an AAAA record; a process may be out of file descriptors; a link-local address
with a scope is none that pika takes. pika raises all that into its event loop: a worker's ends by it, and asyncio's
tells it to nobody who waits for the connection. Here it is a failed try like any other, and the next address gets its
turn.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pika.adapters import base_connection
from pika.adapters.utils.connection_workflow import AMQPConnector, AMQPConnectorSocketConnectError


class NotTried(AMQPConnectorSocketConnectError):
    """An address that could not even be tried, by no fault of the broker's."""


class _Connector(AMQPConnector):
    def start(self, addr_record: Any, conn_params: Any, on_done: Any) -> None:
        """Begin to connect to one address; what came of it is told later, in each case."""
        try:
            super().start(addr_record, conn_params, on_done)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this address's alone
            this: Any = self  # none of this is in the stubs
            # Kept as a timer of its own, so that it is cancelled if the whole attempt is given up before.
            this._stack_timeout_ref = this._nbio.call_later(
                0, partial(this._report_completion_and_cleanup, NotTried(error))
            )


def try_each(connection: Any) -> None:
    """Have a connection go on to the next address where one cannot be tried.

    Args:
        connection: pika's, which has just begun its attempt: call this at the end of `_adapter_connect_stream`.
    """
    shim = base_connection._StreamingProtocolShim  # as pika does it
    connection._connection_workflow._connector_factory = lambda: _Connector(
        lambda _parameters: shim(connection),
        connection._nbio,
    )


def innermost(error: BaseException | str) -> BaseException | str:
    """What befell a connection. pika wraps the cause of a failed connect in several layers; the innermost tells it."""
    seen = error
    while isinstance(seen, BaseException):
        several: Sequence[BaseException] = getattr(seen, "exceptions", None) or ()
        layers = (
            _most_telling(several) if several else None,
            getattr(seen, "exception", None),
            seen.__cause__,
            seen.args[0] if seen.args else None,
        )
        inner = next((layer for layer in layers if isinstance(layer, BaseException)), None)
        if inner is None:
            break
        seen = inner
    return seen


def _most_telling(errors: Sequence[BaseException]) -> BaseException:
    """Of what befell an attempt's addresses, the last one that says something about the broker."""
    return next((error for error in reversed(errors) if not isinstance(error, NotTried)), errors[-1])
