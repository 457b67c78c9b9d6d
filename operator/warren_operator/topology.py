"""What there is to be in the broker for the WorkQueues that are served, against what is there.

The first part is pure: `desired` says what is to be, `plan` what is to be done about the difference, `findings` what
cannot be mended and has to be told. `Topology` reads, plans and applies, again and again, so that what somebody deletes
by hand comes back. Nothing that holds tasks is ever deleted: a queue outlives its WorkQueue, with its tasks.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from warren_contract.aio import BrokerUnavailable
from warren_contract.names import DEAD_EXCHANGE, DEAD_SUFFIX, EVENTS_EXCHANGE, TASKS_EXCHANGE, dead_queue
from warren_operator.broker import DECLARING, OLDEST_BROKER, Broker, DeclareRefused
from warren_operator.management import Management, ManagementUnavailable
from warren_operator.observation import Statistics
from warren_operator.reasons import Reason
from warren_operator.resource import Key, QueueSettings

log = logging.getLogger(__name__)

DEFAULT_POLICY = "warren-default"
DEAD_POLICY = "warren-dead"
POLICY_PREFIX = "warren."

DEFAULT_PRIORITY = 10
"""Above 0, RabbitMQ's default, so that somebody's catch-all policy does not quietly switch dead-lettering off."""

OWN_PRIORITY = 20
"""Of the policy of one queue, above the default's."""

REDELIVERIES = 15
"""Deliveries beyond maxAttempts until the broker gives a task up: workers that die at work use deliveries up, too."""

CONSUMER_SLACK = 300.0
"""Seconds beyond the time limit of a task until the broker takes it back from its worker."""

DISCONNECTED = 5.0
"""Seconds after a queue has lost sight of a broker until it takes back what it gave out through it; RabbitMQ waits 60.

Long enough for brokers that lost their connection alone to connect anew, which takes less than one. No longer, for two
reasons. A worker that was cut off together with its broker gives its connection up about then: silence between brokers
counts after 15 to 25 s, silence between broker and worker after 20 to 30 s. If the queue's leader changes meanwhile,
RabbitMQ 4.3.6 forgets to take the tasks back, which leaves them to the consumer timeout (docs/adr/0007)."""

STATISTICS_EVERY = 5.0
"""Seconds between two listings of the queues. The broker's own statistics are no fresher."""

REST = 20.0
"""Times as long as a listing took is rested after it: with thousands of queues it takes a good part of a second."""

LONGEST_REST = 15.0
"""Seconds of that at most: statistics must not be older than what `observe` believes."""

FLOCK = 0.05
LONGEST_FLOCK = 1.0
"""Seconds to wait for more when something is new: at least, and at most where a listing takes long."""

FULL_EVERY = 30.0
"""Seconds between two comparisons of everything else: exchanges, bindings, policies."""

FAILURES = 3
"""Listings that must fail in a row until it is told; one may fall into a restart of the broker."""

CONTESTED = 3
"""Full comparisons in a row that find a policy changed which was set before, after which that is told: once is an edit,
time and again it is somebody else who keeps a policy of that name."""

EXCHANGES: Mapping[str, str] = {TASKS_EXCHANGE: "direct", DEAD_EXCHANGE: "direct", EVENTS_EXCHANGE: "topic"}


@dataclass(frozen=True, slots=True)
class Policy:
    """A RabbitMQ policy for quorum queues.

    Attributes:
        pattern: of queue names.
        priority: the highest that matches is the only one that applies; policies do not merge.
        definition: keys as RabbitMQ names them; times in milliseconds.
    """

    pattern: str
    priority: int
    definition: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """As the management API takes it."""
        return {
            "pattern": self.pattern,
            "apply-to": "quorum_queues",
            "priority": self.priority,
            "definition": dict(self.definition),
        }


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """From an exchange to a queue."""

    exchange: str
    queue: str
    key: str


@dataclass(frozen=True, slots=True)
class Desired:
    """What there is to be.

    Attributes:
        exchanges: type of each.
        queues: work queues; each has its dead-letter queue.
        bindings: of both.
        policies: by name.
        policy_of: name of the policy that is to apply to each work queue.
    """

    exchanges: Mapping[str, str]
    queues: frozenset[str]
    bindings: frozenset[Binding]
    policies: Mapping[str, Policy]
    policy_of: Mapping[str, str]

    @property
    def all_queues(self) -> list[str]:
        """In the order in which they are made.

        Work queues first: of a thousand new ones, each is of use in half the time. A task that fails for good before
        its dead-letter queue is there waits for it: its worker hands it back, and the broker keeps it (at-least-once).
        """
        return [*sorted(self.queues), *(dead_queue(queue) for queue in sorted(self.queues))]


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue as the broker lists it.

    Attributes:
        type: `quorum`, `classic`, `stream`.
        durable, exclusive, auto_delete: as declared.
        arguments: as declared.
        policy: that applies; empty without one.
        effective: what holds in the end, an operator policy included; None where the broker does not tell, as while the
            queue has no leader.
    """

    type: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    arguments: Mapping[str, Any]
    policy: str
    effective: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Actual:
    """What there is.

    Attributes:
        exchanges: type of each.
        queues: by name.
        bindings: from our exchanges.
        policies: by name.
        default_queue_type: of the virtual host.
        refused: queues that the broker did not declare, and why, in its words.
    """

    exchanges: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, QueueFacts] = field(default_factory=dict)
    bindings: frozenset[Binding] = frozenset()
    policies: Mapping[str, Policy] = field(default_factory=dict)
    default_queue_type: str = "quorum"
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order."""

    exchanges: tuple[tuple[str, str], ...] = ()
    put: tuple[tuple[str, Policy], ...] = ()
    queues: tuple[str, ...] = ()
    bindings: tuple[Binding, ...] = ()
    drop: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether all is as it is to be."""
        return not (self.exchanges or self.put or self.queues or self.bindings or self.drop)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a queue that the operator cannot or may not mend.

    Attributes:
        reason: a `Reason`; or `OVERRIDDEN`, which has a condition of its own.
        message: what differs, and what to do.
    """

    reason: str
    message: str


OVERRIDDEN = "PolicyOverridden"


def definition(settings: QueueSettings) -> dict[str, Any]:
    """A policy's definition, for RabbitMQ 4.3.1 and later."""
    keys: dict[str, Any] = {
        "dead-letter-exchange": DEAD_EXCHANGE,
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",  # at-least-once dead-lettering needs it
        "delivery-limit": settings.max_attempts + REDELIVERIES,
        "delayed-retry-type": "failed",
        "delayed-retry-min": _milliseconds(settings.min_delay),
        "delayed-retry-max": _milliseconds(settings.max_delay),
        "consumer-timeout": _milliseconds(settings.time_limit + CONSUMER_SLACK),
        "consumer-disconnected-timeout": _milliseconds(DISCONNECTED),
        "max-length": settings.max_length,
    }
    if settings.message_ttl is not None:
        keys["message-ttl"] = _milliseconds(settings.message_ttl)
    return keys


def policy_name(key: Key) -> str:
    """Name of the policy of one WorkQueue. The namespace tells which operator it belongs to."""
    return f"{POLICY_PREFIX}{key.namespace}.{key.name}"


def desired(queues: Mapping[Key, tuple[str, QueueSettings]], defaults: QueueSettings) -> Desired:
    """What there is to be for these WorkQueues: name of the queue and settings of each.

    One policy serves all queues with the default settings, because each policy is matched against each queue.
    """
    policies = {
        DEFAULT_POLICY: Policy(r"^(?!amq\.|warren\.).*(?<!\.dead)$", DEFAULT_PRIORITY, definition(defaults)),
        # People look into dead letters and put them back: that must not use up deliveries until a letter is dropped.
        DEAD_POLICY: Policy(r"^(?!amq\.|warren\.).*\.dead$", DEFAULT_PRIORITY, {"delivery-limit": -1}),
    }
    policy_of: dict[str, str] = {}
    bindings: set[Binding] = set()
    for key, (queue, settings) in queues.items():
        policy_of[queue] = DEFAULT_POLICY
        if settings != defaults:
            policy_of[queue] = policy_name(key)
            pattern = f"^{queue.replace('.', '[.]')}$"
            policies[policy_name(key)] = Policy(pattern, OWN_PRIORITY, definition(settings))
        bindings.add(Binding(TASKS_EXCHANGE, queue, queue))
        bindings.add(Binding(DEAD_EXCHANGE, dead_queue(queue), queue))
    return Desired(EXCHANGES, frozenset(policy_of), frozenset(bindings), policies, policy_of)


def plan(want: Desired, have: Actual, owned: Callable[[str], bool]) -> Plan:
    """What to do so that everything that is wanted is there.

    Args:
        want: what there is to be.
        have: what there is.
        owned: whether a policy of this name is ours to delete once it is no longer wanted.
    """
    return Plan(
        exchanges=tuple((name, kind) for name, kind in want.exchanges.items() if name not in have.exchanges),
        put=tuple((name, policy) for name, policy in want.policies.items() if have.policies.get(name) != policy),
        queues=tuple(name for name in want.all_queues if name not in have.queues and name not in have.refused)
        if have.default_queue_type == "quorum"
        else (),
        bindings=tuple(
            sorted(binding for binding in want.bindings - have.bindings if binding.queue not in have.refused)
        ),
        drop=tuple(sorted(name for name in have.policies if name not in want.policies and owned(name))),
    )


def findings(want: Desired, have: Actual, queue: str) -> tuple[Finding, ...]:
    """What is wrong with one work queue and cannot be mended by `plan`."""
    found: list[Finding] = []
    for name in (queue, dead_queue(queue)):
        facts = have.queues.get(name)
        if facts is None:
            if have.default_queue_type != "quorum":
                found.append(_wrong_default(name, have.default_queue_type))
            elif name in have.refused:
                found.append(
                    Finding(Reason.QUEUE_REFUSED, f"the broker does not declare queue {name}: {have.refused[name]}")
                )
        elif differing := _differing(facts):
            found.append(
                Finding(
                    Reason.QUEUE_MISMATCH,
                    f"queue {name} exists with {differing}; Warren needs a durable quorum queue without arguments and "
                    "changes nothing about it: move its messages elsewhere and delete it (the operator makes it anew), "
                    f"or name another queue in spec.queue.name",
                )
            )
    facts = have.queues.get(queue)
    if facts is not None and not found and queue in want.policy_of:
        name = want.policy_of[queue]
        if have.policies.get(name) == want.policies[name]:  # else it is about to be put in place
            found += _override(queue, facts, name, want.policies[name].definition, have)
    for name, kind in want.exchanges.items():
        if have.exchanges.get(name, kind) != kind:
            found.append(
                Finding(
                    Reason.EXCHANGE_MISMATCH,
                    f"exchange {name} is of type {have.exchanges[name]}; Warren needs {kind}: delete it, and the "
                    "operator makes it anew",
                )
            )
    return tuple(found)


def _wrong_default(name: str, kind: str) -> Finding:
    return Finding(
        Reason.DEFAULT_QUEUE_TYPE,
        f"queue {name} is not declared: the virtual host's default queue type is {kind}, and Warren declares without "
        "arguments; set it with `rabbitmqctl update_vhost_metadata VHOST --default-queue-type quorum`",
    )


def _differing(facts: QueueFacts) -> str:
    """In words, how a queue differs from a durable quorum queue without arguments; empty if it does not."""
    parts = []
    if facts.type != "quorum":
        parts.append(f"type {facts.type}")
    if not facts.durable:
        parts.append("durable=false")
    if facts.exclusive:
        parts.append("exclusive=true")
    if facts.auto_delete:
        parts.append("auto_delete=true")
    parts += [f"{key}={value}" for key, value in sorted(facts.arguments.items()) if key != "x-queue-type"]
    return ", ".join(parts)


def _override(queue: str, facts: QueueFacts, name: str, wanted: Mapping[str, Any], have: Actual) -> Iterable[Finding]:
    effective = facts.effective
    if effective is None:
        return
    keys = sorted(key for key in {*effective, *wanted} if effective.get(key) != wanted.get(key))
    if not keys:
        return
    differing = ", ".join(
        f"{key} is {effective.get(key, 'unset')} instead of {wanted.get(key, 'unset')}" for key in keys
    )
    if facts.policy == name:
        cause, remedy = "an operator policy", "change that operator policy"
    else:
        other = have.policies.get(facts.policy)
        priority = f" of priority {other.priority}" if other else ""
        cause = f"policy {facts.policy or '(none)'}{priority}"
        remedy = (
            f"remove it, or give it a priority below {OWN_PRIORITY if name != DEFAULT_POLICY else DEFAULT_PRIORITY}"
        )
    yield Finding(OVERRIDDEN, f"{cause} overrides {name} on queue {queue}: {differing}; {remedy}")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def read_queue(body: Mapping[str, Any]) -> QueueFacts:
    """A queue from the listing."""
    effective = body.get("effective_policy_definition") or {}  # the API writes an empty one as []
    return QueueFacts(
        type=str(body.get("type", "classic")),
        durable=bool(body.get("durable")),
        exclusive=bool(body.get("exclusive")),
        auto_delete=bool(body.get("auto_delete")),
        arguments=body.get("arguments") or {},
        policy=str(body.get("policy") or ""),
        effective=effective if "effective_policy_definition" in body else None,
    )


def read_policy(body: Mapping[str, Any]) -> Policy:
    """A policy from the listing; one that applies to other things than ours do is equal to none of ours."""
    applies = body.get("apply-to") == "quorum_queues"
    return Policy(body["pattern"] if applies else "", body.get("priority", 0), body.get("definition") or {})


def read_statistics(listing: Iterable[Mapping[str, Any]], now: float) -> dict[str, Statistics]:
    """The totals of each queue that is no dead-letter queue."""
    totals = {body["name"]: body for body in listing}
    result = {}
    for name, body in totals.items():
        if name.endswith(DEAD_SUFFIX):
            continue
        dead = totals.get(dead_queue(name))
        result[name] = Statistics(
            ready=body.get("messages_ready", 0),
            unacked=body.get("messages_unacknowledged", 0),
            total=body.get("messages", 0),
            available=_is_up(body),
            dead=None if dead is None or not _is_up(dead) else dead.get("messages", 0),
            at=now,
        )
    return result


def _is_up(body: Mapping[str, Any]) -> bool:
    """Whether a queue has a leader. Of one that has none the listing has no totals, or zeros."""
    return bool(body.get("state", "running") == "running")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the broker refuses.

    Attributes:
        text: in its words, with what to do about them.
        times: how often in a row.
    """

    text: str
    times: int


class Topology:
    """Keeps the broker as the WorkQueues want it.

    Attributes:
        statistics: of each queue, as last listed.
        problem: why the broker cannot be compared or mended at present; empty while it can.
        compared: whether it has been, at least once on this connection.
        declaring: whether the last comparison found queues to declare; they are there, or soon will be.
    """

    def __init__(
        self,
        broker: Broker,
        management: Management,
        defaults: QueueSettings,
        owned: Callable[[str], bool],
        changed: Callable[[Iterable[str]], None],
    ) -> None:
        """Args:
        broker: declares.
        management: lists, and sets policies.
        defaults: of the virtual host.
        owned: whether a policy of this name is ours to delete once it is no longer wanted.
        changed: called with the queues that came into being or whose findings changed.
        """
        self.statistics: dict[str, Statistics] = {}
        self.problem = ""
        self.compared = False
        self.declaring = False
        self._broker = broker
        self._management = management
        self._defaults = defaults
        self._owned = owned
        self._changed = changed
        self._want: Desired | None = None
        self._present: set[str] | None = None
        self._may_drop = False
        self._actual = Actual()
        self._findings: dict[str, tuple[Finding, ...]] = {}
        self._wake = asyncio.Event()
        self._full_at = self._listed_at = float("-inf")
        self._failures = 0
        self._listing = 0.0
        self._grown = False
        self._refused: dict[str, str] = {}
        self._set: dict[str, Policy] = {}  # as we have last set or found them
        self._contested: dict[str, int] = {}
        self._unbound: dict[Binding, _Refusal] = {}
        self._pardon_at = float("-inf")

    def serve(self, queues: Mapping[Key, tuple[str, QueueSettings]], *, may_drop: bool) -> None:
        """Say which queues are to be there.

        Args:
            queues: name and settings, by WorkQueue.
            may_drop: whether policies that are no longer wanted may be deleted; not while a WorkQueue is unreadable.
        """
        want, before = desired(queues, self._defaults), self._want
        if want == before and may_drop == self._may_drop:
            return
        self._want, self._may_drop = want, may_drop
        if before is not None and want.queues > before.queues and want.policies == before.policies:
            self._grown = True
            self._wake.set()
        else:
            self._compare_all()

    def retire(self) -> None:
        """Do nothing until `serve` is called again: another operator keeps the broker."""
        self._want = None

    def wake(self) -> None:
        """Compare everything at once, and try again what was refused: the broker may be another, or have new rules."""
        self._pardon_at = float("-inf")
        self._compare_all()

    def _compare_all(self) -> None:
        self._full_at = float("-inf")
        self._wake.set()

    def missing(self, queue: str) -> None:
        """Somebody found a queue missing: compare at once, unless that is known, or beyond our means."""
        if self.compared and not self.absent(queue) and not self.findings(queue):
            self._compare_all()

    def absent(self, queue: str) -> bool:
        """Whether a queue is known not to be there, so that it need not be asked for."""
        return self._present is not None and queue not in self._present

    def findings(self, queue: str) -> tuple[Finding, ...]:
        """What is wrong with a queue and cannot be mended."""
        return self._findings.get(queue, ())

    async def run(self) -> None:
        """Compare and mend until cancelled."""
        while True:
            self._wake.clear()
            await self.compare()
            try:
                async with asyncio.timeout(min(max(STATISTICS_EVERY, self._listing * REST), LONGEST_REST)):
                    await self._wake.wait()
                # What comes in a flock is done in one go. What declaring takes counts for nothing here: it is not done
                # again, and a broker that waits for us in between takes in a thousand in twice the time.
                await asyncio.sleep(min(max(FLOCK, self._listing), LONGEST_FLOCK))
            except TimeoutError:
                pass

    async def compare(self) -> None:
        """List, plan, apply, and note what cannot be mended. Never raises because of the broker."""
        if self._want is None:  # what another operator keeps is soon not as it was
            self._findings, self._present, self._failures, self.problem = {}, None, 0, ""
        if self._want is None or self._broker.problem:
            self.compared = False
            self._full_at = float("-inf")
            return
        if self._broker.too_old:
            oldest = ".".join(str(number) for number in OLDEST_BROKER)
            self.problem = f"the broker is RabbitMQ {self._broker.version}: Warren needs {oldest} or later, upgrade it"
            return
        try:
            await self._mend(self._want)
        except (ManagementUnavailable, BrokerUnavailable) as error:
            self.declaring = False
            self._failures += 1
            self._full_at = float("-inf")
            if self._failures >= FAILURES or not self.compared:
                self.problem = str(error)
            if self._failures == 1:  # once; what comes after it until it is over is the same story
                log.warning("topology: %s", error)
        else:
            self._failures, self.problem, self.compared = 0, "", True

    async def _mend(self, want: Desired) -> None:
        loop = asyncio.get_running_loop()
        full = loop.time() - self._full_at >= FULL_EVERY
        if loop.time() >= self._pardon_at:
            self._refused.clear()  # a limit may have been raised, or a right given: they are tried again
            self._pardon_at = loop.time() + FULL_EVERY
        # What has just been listed is known well enough to declare what is new: declaring what is there harms nothing.
        known = self._grown and self.compared and not full and loop.time() - self._listed_at < LONGEST_REST
        self._grown = False
        try:
            if not known:
                await self._list(loop.time(), full=full)
            if any(
                queue.policy and queue.policy not in self._actual.policies for queue in self._actual.queues.values()
            ):
                await self._list(loop.time(), full=True)  # somebody's new policy applies: see what it is
        except ManagementUnavailable:
            self._present = None
            # Without the listing nothing is known, but declaring what is there already harms nothing.
            await self._apply(Plan(tuple(want.exchanges.items()), (), (), ()), want)
            raise
        if full:
            self._watch_policies(want)
        todo = plan(want, self._actual, self._owned if self._may_drop else lambda _name: False)
        todo = replace(todo, queues=tuple(name for name in todo.queues if self.absent(name)))
        self.declaring = bool(todo.queues)
        await self._apply(todo, want)
        if not todo.empty and not self._wake.is_set():  # else it is listed again in a moment
            await self._list(loop.time(), full=True)
        unbound = self._find_unbound(want)
        self._note(
            {
                queue: findings(want, self._actual, queue) + unbound.get(queue, ()) + self._contest(want, queue)
                for queue in want.queues
            }
        )

    def _watch_policies(self, want: Desired) -> None:
        """Count how often in a row a policy was found changed that was as it is to be before."""
        contested = {}
        self._set = {name: policy for name, policy in self._set.items() if name in want.policies}
        for name, policy in want.policies.items():
            if self._actual.policies.get(name) == policy:
                self._set[name] = policy
            elif self._set.get(name) == policy:
                contested[name] = self._contested.get(name, 0) + 1
        self._contested = contested

    def _find_unbound(self, want: Desired) -> dict[str, tuple[Finding, ...]]:
        """The bindings of each work queue that were refused twice; the first time an exchange may just have gone."""
        self._unbound = {
            binding: refusal
            for binding, refusal in self._unbound.items()
            if binding in want.bindings and binding not in self._actual.bindings
        }
        found: dict[str, tuple[Finding, ...]] = {}
        for binding, refusal in sorted(self._unbound.items(), reverse=True):  # that of the tasks comes first
            if refusal.times < 2:
                continue
            text = f"the broker does not bind queue {binding.queue} to exchange {binding.exchange}: {refusal.text}"
            found[binding.key] = (*found.get(binding.key, ()), Finding(Reason.BINDING_REFUSED, text))
        return found

    def _contest(self, want: Desired, queue: str) -> tuple[Finding, ...]:
        """That somebody else keeps a policy of the name of the one that is to apply to a queue."""
        name = want.policy_of[queue]
        if self._contested.get(name, 0) < CONTESTED:
            return ()
        text = (
            f"policy {name} is changed by somebody each time after it was set, so that queue {queue} has now these "
            "settings, now those: have only one release of Warren in a virtual host, or releases with the same "
            "defaults, and nothing else that keeps a policy of this name"
        )
        return (Finding(OVERRIDDEN, text),)

    async def _list(self, now: float, *, full: bool) -> None:
        begun = asyncio.get_running_loop().time()
        listing = await self._management.queues()
        self._listing, self._listed_at = asyncio.get_running_loop().time() - begun, begun
        self.statistics = read_statistics(listing, now)
        queues = {body["name"]: read_queue(body) for body in listing}
        self._present = set(queues)
        if not full:
            self._actual = Actual(
                self._actual.exchanges,
                queues,
                frozenset(binding for binding in self._actual.bindings if binding.queue in queues),
                self._actual.policies,
                self._actual.default_queue_type,
                self._refused,
            )
            return
        bindings: set[Binding] = set()
        exchanges = {body["name"]: body["type"] for body in await self._management.exchanges()}
        for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE):
            if exchange in exchanges:
                bindings |= {
                    Binding(exchange, body["destination"], body["routing_key"])
                    for body in await self._management.bindings(exchange)
                    if body.get("destination_type") == "queue"
                }
        self._actual = Actual(
            exchanges=exchanges,
            queues=queues,
            bindings=frozenset(bindings),
            policies={body["name"]: read_policy(body) for body in await self._management.policies()},
            default_queue_type=await self._management.default_queue_type(),
            refused=self._refused,
        )
        self._full_at = now

    async def _apply(self, todo: Plan, want: Desired) -> None:
        """Do what is planned; what one queue refuses keeps no other from being done."""
        for name, kind in todo.exchanges:
            try:
                await self._broker.declare("exchange_declare", exchange=name, exchange_type=kind, durable=True)
            except DeclareRefused as error:  # where it exists and differs, a finding says how, as soon as it is listed
                raise BrokerUnavailable(f"the broker does not declare exchange {name}: {error}") from error
        for name, policy in todo.put:
            if await self._management.put_policy(name, policy.body()):
                self._set[name] = policy
                log.info("policy %s set", name)
        await self._declare(todo, want)
        for name in todo.drop:
            if await self._management.delete_policy(name):
                log.info("policy %s removed", name)

    async def _declare(self, todo: Plan, want: Desired) -> None:
        """Queues and their bindings, several at a time: one after the other is complete and can be used.

        Work queues that have come meanwhile do not wait for all dead-letter queues: the next comparison makes the rest.
        """
        new = set(todo.queues)
        bindings: dict[str, list[Binding]] = {}
        for binding in todo.bindings:
            bindings.setdefault(binding.queue, []).append(binding)
        names = iter([name for name in want.all_queues if name in new or name in bindings])

        async def work() -> None:
            for name in names:  # all workers share it
                if name not in new or await self._declare_queue(name):
                    bound.update(await self._bind(bindings.get(name, ()), todo, want))
                if name not in want.queues:
                    if self._wake.is_set():
                        return
                elif name in new:
                    self._changed([name])

        bound: set[Binding] = set()
        try:
            results = await asyncio.gather(*(work() for _ in range(DECLARING)), return_exceptions=True)
        finally:
            self._actual = replace(self._actual, bindings=self._actual.bindings | bound)
        for result in results:
            if result is not None:
                raise result

    async def _declare_queue(self, name: str) -> bool:
        """Declare a queue; returns whether it is there now, and as it is to be."""
        try:
            answer = await self._broker.declare("queue_declare", queue=name, durable=True)
        except DeclareRefused as error:
            # A finding tells it; that of one that was made by somebody else since the listing tells how it differs.
            if not self._refused:  # once in a comparison; it is mostly one limit or right for all
                log.warning("queue %s is not declared: %s", name, error)
            self._refused[name] = str(error)
            return False
        if self._present is not None:
            self._present.add(name)
        if not answer.message_count and not answer.consumer_count and not name.endswith(DEAD_SUFFIX):
            # It is new, and so is its dead-letter queue: the next listing will say the same.
            now = asyncio.get_running_loop().time()
            self.statistics[name] = Statistics(ready=0, unacked=0, total=0, available=True, dead=0, at=now)
        log.info("queue %s declared", name)
        return True

    async def _bind(self, bindings: Iterable[Binding], todo: Plan, want: Desired) -> list[Binding]:
        """Make these bindings; returns those that are there now."""
        made: list[Binding] = []
        for binding in bindings:
            if not self._bindable(binding, todo, want):
                continue
            try:
                await self._broker.declare(
                    "queue_bind", queue=binding.queue, exchange=binding.exchange, routing_key=binding.key
                )
            except DeclareRefused as error:  # a right is missing; or somebody has just deleted the exchange
                times = self._unbound[binding].times + 1 if binding in self._unbound else 1
                self._unbound[binding] = _Refusal(str(error), times)
                if times == 1:  # what comes after it until it is over is the same story
                    log.warning("queue %s is not bound to %s: %s", binding.queue, binding.exchange, error)
            else:
                made.append(binding)
        return made

    def _bindable(self, binding: Binding, todo: Plan, want: Desired) -> bool:
        exists = binding.queue in todo.queues or not self.absent(binding.queue)
        kind = self._actual.exchanges.get(binding.exchange)
        return exists and kind in (None, want.exchanges[binding.exchange])

    def _note(self, found: dict[str, tuple[Finding, ...]]) -> None:
        before, self._findings = self._findings, found
        self._changed(queue for queue in found if found[queue] != before.get(queue, ()))
