"""The lease that lets one operator act while others stand by.

The holder renews a Lease object again and again, and acts only for a while after each renewal. The others look on, and
take it once it has not changed for longer than that. All clocks are local and monotonic, nobody trusts another's.

The Kubernetes client brings an election too. It checks its deadline only between two calls, so that a call that hangs
lets a holder act on; it goes by the wall clock; and it gives nothing back at the end.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from warren_operator.kube import Api, KubeError
from warren_operator.mirror import Kind
from warren_operator.resource import Key

log = logging.getLogger(__name__)

LEASES = Kind("apis/coordination.k8s.io/v1", "leases")

DURATION = 7
"""Seconds without a renewal after which others take the lease: with what it takes to begin, below ten."""

ACTS_FOR = 5.0
"""Seconds that a holder acts after a renewal began. The rest is for calls that are under way when they are over."""

RENEW_EVERY = 1.5
"""Seconds between two renewals: two may fail."""

LOOK_EVERY = 0.5
"""Seconds between two looks of one that stands by; a holder that ends well hands over within that."""

CALL_LIMIT = 2.0
"""Seconds for one call, so that one that hangs is not the last one in the time."""

LONGEST_DURATION = 60.0
"""Seconds after which others take the lease at the latest, whatever somebody has written into it by hand."""

MOST_TRANSITIONS = 2**31 - 1
"""More the API server does not take."""

RELEASE_LIMIT = 0.5
"""Seconds for giving the lease back at the end; what fails there costs the next one `DURATION`."""


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease object as it was read.

    Attributes:
        holder: empty where nobody holds it.
        duration: seconds without a change after which it is free.
        version: changes with each renewal.
        body: of the object, to write it back with.
    """

    holder: str
    duration: float
    version: str
    body: Mapping[str, Any]


def read_lease(body: Mapping[str, Any]) -> Record:
    """A Lease from its object; what it does not say is as in a lease of ours."""
    spec = body.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration=min(float(spec.get("leaseDurationSeconds") or DURATION), LONGEST_DURATION),
        version=body["metadata"]["resourceVersion"],
        body=body,
    )


class Lease:
    """This operator's part in the lease. Without a name it always acts.

    Attributes:
        holder: who holds it, as last seen; empty where nobody does or nothing is known.
        problem: why the lease cannot be read or written; empty while it can.
    """

    def __init__(self, api: Api, key: Key | None, name: str, changed: Callable[[], None]) -> None:
        """Args:
        api: session with the API server.
        key: of the Lease; None for none.
        name: of this operator. What the lease says is made unique: a restarted pod is another holder.
        changed: called when this operator begins to act, and when somebody else does.
        """
        self.identity = f"{name}_{uuid.uuid4().hex[:8]}"
        self.holder = ""
        self.problem = ""
        self._api = api
        self._key = key
        self._changed = changed
        self._until = float("-inf")
        self._seen = ""
        self._seen_at = 0.0
        self._ours: Record | None = None

    @property
    def ours(self) -> bool:
        """Whether this operator is the one that acts, as far as it knows."""
        return self._key is None or self.holder == self.identity

    @property
    def acts(self) -> bool:
        """Whether it may change anything at this very moment. While the lease cannot be renewed, it goes on looking."""
        return self._key is None or (self.ours and asyncio.get_running_loop().time() < self._until)

    async def run(self) -> None:
        """Take the lease when it is free and keep it, until cancelled; then give it back."""
        if self._key is None:
            self._changed()
            return
        clock = asyncio.get_running_loop().time
        try:
            while True:
                begun = clock()
                try:
                    await self._step(self._key)
                    self._report("")
                except KubeError as error:
                    self._ours = None
                    self._report("" if error.conflict else _advice(error, self._key))
                except TimeoutError:
                    self._ours = None
                    self._report(f"lease {self._key}: the Kubernetes API did not answer within {CALL_LIMIT:g} s")
                pause = RENEW_EVERY if self._ours is not None else LOOK_EVERY
                await asyncio.sleep(max(LOOK_EVERY / 10, begun + pause - clock()))
        finally:
            await self._release(self._key)

    async def _step(self, key: Key) -> None:
        """Renew what is ours; else look, and take what is free."""
        clock = asyncio.get_running_loop().time
        record = self._ours or await self._look(key)
        begun = clock()
        if record is None:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": key.name}}
            written = await self._call("POST", LEASES.path(key.namespace), self._claimed(body))
        elif record.holder in ("", self.identity) or clock() - self._seen_at > record.duration:
            if record.holder != self.identity:
                self._note("")  # it may have been somebody else's while we could not look
            path = LEASES.path(key.namespace, key.name)
            written = await self._call("PUT", path, self._claimed(record.body))
        else:
            self._note(record.holder)
            return
        self._ours = read_lease(written)
        self._until = begun + ACTS_FOR
        self._note(self.identity)

    async def _look(self, key: Key) -> Record | None:
        """The lease as it is, None where there is none; since when it has been so is kept."""
        try:
            record = read_lease(await self._call("GET", LEASES.path(key.namespace, key.name)))
        except KubeError as error:
            if error.gone:
                return None
            raise
        if record.version != self._seen:
            self._seen, self._seen_at = record.version, asyncio.get_running_loop().time()
        return record

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        """One call. Each has its own limit: where answers are slow, what takes two of them is not given up for it."""
        async with asyncio.timeout(CALL_LIMIT):
            return await self._api.request(method, path, body=body)

    def _claimed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object with this operator as its holder. Its version has the API server refuse it to the later of two."""
        spec = body.get("spec") or {}
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = spec.get("holderIdentity") == self.identity
        return {
            **body,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION,
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": min(spec.get("leaseTransitions", 0) + (not ours), MOST_TRANSITIONS),
            },
        }

    def _note(self, holder: str) -> None:
        before, self.holder = self.holder, holder
        if holder == before:
            return
        if holder == self.identity:
            log.info("this operator acts: it holds the lease %s", self._key)
        elif holder:
            log.info("standing by: %s acts, and holds the lease %s", holder, self._key)
        self._changed()

    def _report(self, problem: str) -> None:
        if problem and not self.problem:  # once; what comes after it until it is over is the same story
            log.warning("%s", problem)
        self.problem = problem

    async def _release(self, key: Key) -> None:
        """Nobody holds it any more, so that another one need not wait. From here on nothing is changed."""
        self._until = float("-inf")
        record = self._ours
        if record is None:
            return
        body = self._claimed(record.body)
        body["spec"] |= {"holderIdentity": ""}
        try:
            async with asyncio.timeout(RELEASE_LIMIT):
                await self._api.request("PUT", LEASES.path(key.namespace, key.name), body=body)
        except (KubeError, TimeoutError) as error:
            log.info("the lease %s could not be given back: %s", key, error)


def _advice(error: KubeError, key: Key) -> str:
    if error.forbidden:
        return (
            f"permission missing: allow the operator's service account get and update on lease {key} and create on "
            f"leases; nothing is scaled until then ({error})"
        )
    return f"lease {key}: {error}"
