"""A queue for events stays bound to its exchange, whatever somebody does to the exchange."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from warren_contract.aio import BrokerUnavailable, Channel, Connection

log = logging.getLogger(__name__)

BIND_EVERY = 10.0
"""Seconds between two bindings, of some frames each; for so long at most nothing is heard of an exchange made anew."""


async def keep_bound(
    connection: Connection, listening: Channel, bind: Callable[[Channel], Awaitable[None]]
) -> BaseException:
    """Bind again and again, until the channel that listens is closed.

    An exchange that is deleted takes its bindings along, and neither the queue nor its consumer notices.

    Each time it is done over a channel of its own. One that waits in vain for an answer is of no use any more, and
    without a majority of brokers nothing can be bound, while events are heard over the other channel all the same.

    Args:
        connection: that both channels belong to.
        listening: the channel with the consumer.
        bind: binds the queue, over the channel that it is given; it may be bound already.

    Returns:
        Why it is closed.

    Raises:
        ChannelClosedByBroker: the broker refuses it, since there is no exchange, or one of another type.
    """
    ends = (listening.closed, connection.closed)
    while True:
        await asyncio.wait(ends, timeout=BIND_EVERY, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done():
                return end.result()
        try:
            aside = await connection.channel()
            try:
                await bind(aside)
            finally:
                await aside.close()
        except BrokerUnavailable as error:
            log.warning("the queue for events could not be bound again, which is tried again soon: %s", error)
