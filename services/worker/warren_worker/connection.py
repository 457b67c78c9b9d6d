"""pika's connection, but for what it does with properties that it cannot read and with addresses that it cannot try,
and with an end that waits for nobody.
"""

import struct
from functools import partial
from typing import Any

from pika import frame, spec
from pika.adapters.select_connection import SelectConnection
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.exceptions import AMQPConnectionError, AMQPError, InvalidFrameError

from warren_contract.addresses import try_each
from warren_worker.envelope import Envelope

_HEAD = struct.Struct(">BHL")
_CONTENT = struct.Struct(">HHQ")
_RAW = _HEAD.size + _CONTENT.size


class Connection(SelectConnection):
    """Gives each message's properties their bytes along, as the attribute `raw`.

    RabbitMQ lets in what pika fails on (see `envelope`), and pika fails in the middle of reading: the worker would end,
    and so would the next one that gets the message. Here such properties arrive as an `Envelope` that says what is
    wrong.
    """

    def abort(self, why: str) -> None:
        """End it at once, whatever the broker still has to say; the callback on its closing follows, with the reason.

        pika has no public way: its `close` waits for the broker's answer on each channel, then on the connection.
        """
        self._terminate_stream(AMQPConnectionError(why))  # type: ignore[attr-defined]  # not in the stubs

    def _adapter_connect_stream(self) -> None:
        super()._adapter_connect_stream()  # type: ignore[misc]  # not in the stubs
        try_each(self)

    def _process_frame(self, frame_value: Any) -> None:
        """Let the loop have what a callback of ours raises: pika would only give the connection up."""
        try:
            super()._process_frame(frame_value)  # type: ignore[misc]  # not in the stubs
        except AMQPError:  # the connection's own end
            raise
        except Exception as error:
            self._adapter_add_callback_threadsafe(partial(_raise, error))  # type: ignore[attr-defined]  # as above
            raise

    def _read_frame(self) -> tuple[int, Any]:
        buffer: bytes = self._frame_buffer  # type: ignore[attr-defined]  # pika's own name for it
        try:
            size, value = frame.decode_frame(buffer)
        except InvalidFrameError:
            raise
        except Exception as error:
            if buffer[0] != spec.FRAME_HEADER:
                raise
            return _unread(buffer, error)
        if type(value) is frame.Header:
            value.properties.raw = buffer[_RAW : size - 1]  # type: ignore[attr-defined]  # read by `raw_properties`
        return size, value


class Services(SelectorIOServicesAdapter):
    """What pika asks of the loop. Where there can be no thread to look up a name, that look-up has failed."""

    def getaddrinfo(self, host: Any, port: Any, on_done: Any, *args: Any, **named: Any) -> Any:
        """Look up a name beside the loop; `on_done` gets its addresses or an exception, never from within."""
        try:
            return super().getaddrinfo(host, port, on_done, *args, **named)
        except RuntimeError as error:
            return self.call_later(0, partial(on_done, error))  # cancelled in the same way


def _raise(error: Exception) -> None:
    raise error


def _unread(buffer: bytes, error: Exception) -> tuple[int, Any]:
    _kind, channel, size = _HEAD.unpack_from(buffer)
    _class, _weight, body_size = _CONTENT.unpack_from(buffer, _HEAD.size)
    properties = Envelope(buffer[_RAW : _HEAD.size + size], f"{type(error).__name__}: {error}")
    return _HEAD.size + size + spec.FRAME_END_SIZE, frame.Header(channel, body_size, properties)


def raw_properties(properties: spec.BasicProperties) -> bytes:
    """The bytes that came with a message's properties."""
    raw = getattr(properties, "raw", None)
    return raw if isinstance(raw, bytes) else b"".join(properties.encode())
