"""Having decisions carried out, beside the loop: at most one change of replicas at a time for each WorkQueue."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client import Histogram

from warren_operator.actuation import Actuator, Contested, Outdated, ScaleIn, ranks
from warren_operator.background import Background
from warren_operator.entry import Entry
from warren_operator.explanation import Explained, Problem
from warren_operator.history import extended
from warren_operator.kube import Changes, KubeError
from warren_operator.notes import scaled
from warren_operator.policy import Decision
from warren_operator.reasons import Reason
from warren_operator.resource import Key
from warren_operator.telling import Teller
from warren_operator.worker_reports import WorkerReports
from warren_operator.workloads import Workloads

log = logging.getLogger(__name__)

ECHO_LIMIT = 2.0
"""Seconds to wait until a change of replicas comes back by the watch, before anything else is decided."""

REACTION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. Half a second is promised for the median, one for the slowest in twenty."""

RETRY_EVERY = 1.0
"""Seconds until the next try of a change that the API server refused or did not answer."""

CONTESTED = 3
"""Times in a row that a change met a world other than expected, after which that is told and tried more slowly. Once is
somebody's edit; time and again it is an admission rule, another controller, or a watch that stands still."""


class Actor:
    """Changes replicas, and tells that it has.

    Attributes:
        scalings: changes that were carried out, by direction and limit, for the metrics.
        reactions: from the hint that there are tasks to the change of replicas, for the metrics.
    """

    def __init__(
        self, api: Changes, workloads: Workloads, reports: WorkerReports, teller: Teller, background: Background
    ) -> None:
        """Args:
        api: session with the API server.
        workloads: what is known of the pods.
        reports: what is known of the workers.
        teller: tells.
        background: what runs beside the loop.
        """
        self.scalings: dict[tuple[str, str], int] = {}
        self.reactions = Histogram(
            "warren_operator_reaction_seconds",
            "Time from a producer's word that there are new tasks to the change of replicas that it led to.",
            buckets=REACTION_BUCKETS,
            registry=None,
        )
        self._actuator = Actuator(api)
        self._workloads = workloads
        self._reports = reports
        self._teller = teller
        self._background = background

    def start(self, entry: Entry, target: Key, told: Explained, decision: Decision) -> None:
        """Have a decision carried out; the entry says `acting` until that is over."""
        entry.acting = True
        self._background.start(self._act(entry, target, told, decision))

    def rank(self, entry: Entry, target: Key, order: Sequence[str]) -> None:
        """Have pods marked in the order in which they will probably be free, so that a scale-in finds them marked.

        The entry says `acting` until that is over. Where they are marked so already, there is nothing to do.
        """
        entry.ranked_at = asyncio.get_running_loop().time()
        state = self._workloads.target(target)
        costs = ranks(state, order) if state is not None else {}
        if costs:
            entry.acting = True
            self._background.start(self._mark(entry, target, costs))

    async def _mark(self, entry: Entry, target: Key, costs: Mapping[str, str]) -> None:
        try:
            await self._actuator.mark(target.namespace, costs)
        except (Outdated, KubeError) as error:
            log.info("%s: the pods are not marked ahead: %s", entry.item.key, error)  # a scale-in marks them itself
        finally:
            entry.acting = False

    async def _act(self, entry: Entry, target: Key, told: Explained, decision: Decision) -> None:
        loop = asyncio.get_running_loop()
        queue = entry.item.queue
        trouble: Problem | None = None
        contested = 0
        try:
            if decision.replicas > decision.current:
                await self._actuator.scale(target, decision.current, decision.replicas)
            else:
                forced = told.scaling is not None and decision.current > told.scaling.ceiling
                await self._actuator.scale_in(
                    ScaleIn(target, decision.current, decision.replicas, decision.victims),
                    lambda: self._workloads.target(target),
                    lambda victims: forced or self._free(queue, victims),
                )
        except Contested as error:
            contested = entry.contested + 1
            log.info("%s: %s", entry.item.key, error)
            if contested >= CONTESTED:
                trouble = Problem(
                    Reason.SCALING_REFUSED, f"replicas of Deployment {target.name} could not be changed: {error}"
                )
                entry.act_after = loop.time() + RETRY_EVERY
        except Outdated as error:
            log.info("%s: %s", entry.item.key, error)
        except KubeError as error:
            trouble = Problem(Reason.SCALING_REFUSED, _refused(error, target))
            entry.act_after = loop.time() + RETRY_EVERY
            log.warning("%s: %s", entry.item.key, trouble.message)
        else:
            entry.expected = (decision.replicas, loop.time() + ECHO_LIMIT)
            self._carried_out(entry, told, decision)
        finally:
            entry.trouble, entry.contested = trouble, contested
            entry.acting = False

    def _carried_out(self, entry: Entry, told: Explained, decision: Decision) -> None:
        up = decision.replicas > decision.current
        kind = ("up" if up else "down", decision.limit.value)
        for counts in (self.scalings, entry.scalings):
            counts[kind] = counts.get(kind, 0) + 1
        if up and entry.hinted_at is not None:
            self.reactions.observe(asyncio.get_running_loop().time() - entry.hinted_at)
        entry.hinted_at = None
        entry.decisions = extended(entry.decisions, decision, told.reason, datetime.now(UTC))
        note = scaled(decision, told.reason)
        log.info("%s: %s", entry.item.key, note.message)
        self._teller.post(entry.item, [note])

    def _free(self, queue: str, victims: tuple[str, ...]) -> bool:
        reports = self._reports.of(queue)
        return not any(name in reports and reports[name].state.busy for name in victims)


def _refused(error: KubeError, target: Key) -> str:
    why = str(error)
    # Quotas and admission webhooks answer 403, too: no permission helps against those.
    if error.forbidden and " cannot patch resource " in why:
        why = f"permission missing: allow the operator's service account deployments/scale and pods patch ({why})"
    return f"replicas of Deployment {target.name} could not be changed: {why}"
