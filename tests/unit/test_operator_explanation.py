"""What is told: the sentence, the status and its conditions, Events, event messages."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from warren_contract.durations import parse_duration
from warren_contract.events import MAX_EVENT_SIZE, decode, encode
from warren_operator.conditions import UNCOMPARED, transitions
from warren_operator.explanation import Explained, Problem, sentence, span
from warren_operator.history import History, extended, recalled
from warren_operator.notes import event_body, scaled
from warren_operator.observation import View
from warren_operator.policy import Backlog, Decision, Limit, Memory, Observation, Phase, Rule, Scaling, Worker
from warren_operator.reasons import Reason
from warren_operator.resource import Key, PastDecisionStatus, Spec, Status, WorkQueue, parse_spec
from warren_operator.status import queue_state, status, status_patch, substance

THEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
SCALING = Scaling(max_replicas=12, backlog_per_worker=5)
ITEM = WorkQueue(
    Key("media", "thumbnails"),
    "u-1",
    "2026-01-01T00:00:00Z",
    3,
    parse_spec({"scaleTargetRef": {"name": "w"}}, "thumbnails"),
    "",
    {},
)


def told(
    backlog: Backlog | None = Backlog(60, 0),  # noqa: B008  frozen
    *,
    replicas: int = 12,
    current: int = 0,
    limit: Limit = Limit.NONE,
    problem: Problem | None = None,
    override: str | None = None,
) -> Explained:
    """An explanation of one decision."""
    asked = None if backlog is None else -(-(backlog.ready + backlog.unacked) // 5)
    pods = (Worker("a", Phase.READY, busy=True), Worker("b", Phase.READY, busy=False, idle_for=9))
    view = View(Observation(backlog, current, pods), unknown="" if backlog else "gone fishing", busy=1, idle=1, dead=2)
    return Explained(problem, override, view, Decision(current, asked, replicas, limit, Memory()), SCALING)


def text(what: Explained) -> str:
    """The sentence of an explanation."""
    assert what.decision is not None
    assert what.view is not None
    assert what.scaling is not None
    return sentence(what.decision, what.view, what.scaling)


def conditions(of: Status) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {condition.type: (condition.status.value, condition.reason) for condition in of.conditions}


def test_the_sentence_has_inputs_rule_and_answer() -> None:
    assert text(told()) == "60 tasks at 5 a worker ask for 12"
    assert text(told(Backlog(0, 1), replicas=1)) == "1 task at 5 a worker asks for 1"
    assert text(told(Backlog(0, 0))) == "queue is empty"


@pytest.mark.parametrize(
    ("backlog", "rate", "asked", "words"),
    [
        (Backlog(12, 0), 3.0, 9, "12 tasks, 2.1s each, 3/s arriving: 9 workers keep the wait under 30s"),
        (Backlog(0, 1), 0.25, 1, "1 task, 2.1s each, 0.25/s arriving: 1 worker keeps the wait under 30s"),
        (Backlog(40, 2), None, 3, "42 tasks, 2.1s each: 3 workers keep the wait under 30s"),
        (Backlog(0, 10), None, 0, "10 tasks in work, none waits"),
    ],
)
def test_a_longest_wait_is_explained_by_what_it_is_reckoned_from(
    backlog: Backlog, rate: float | None, asked: int, words: str
) -> None:
    view = View(Observation(backlog, 0, service_time=2.1, arrival_rate=rate))
    decision = Decision(0, asked, asked, Limit.NONE, Memory(), Rule.MAX_WAIT)
    assert sentence(decision, view, Scaling(20, backlog_per_worker=None, max_wait=30.0)) == words


def test_a_service_time_that_is_not_known_yet_is_told_as_such() -> None:
    view = View(Observation(Backlog(40, 2), 0, time_so_far=20.0))
    decision = Decision(0, 27, 27, Limit.NONE, Memory(), Rule.MAX_WAIT)
    words = "42 tasks, about 20s each so far: 27 workers keep the wait under 30s"
    assert sentence(decision, view, Scaling(30, backlog_per_worker=None, max_wait=30.0)) == words


def test_tasks_that_have_become_longer_are_told_as_such() -> None:
    view = View(Observation(Backlog(40, 2), 0, service_time=0.1, time_so_far=20.0))
    decision = Decision(0, 28, 28, Limit.NONE, Memory(), Rule.MAX_WAIT)
    words = "42 tasks, about 20s each so far: 28 workers keep the wait under 30s"
    assert sentence(decision, view, Scaling(30, backlog_per_worker=None, max_wait=30.0)) == words


def test_a_rule_that_stands_in_says_why() -> None:
    view = View(Observation(Backlog(12, 0), 0))
    decision = Decision(0, 3, 3, Limit.NONE, Memory(), Rule.LEARNING)
    words = "12 tasks at 5 a worker ask for 3, service time not known yet"
    assert sentence(decision, view, Scaling(20, backlog_per_worker=None, max_wait=30.0)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (0.0123, "12ms"), (0.85, "850ms"), (0.9996, "1s"), (1, "1s"), (3.3, "3.3s"), (9.96, "10s"),
     (42.4, "42s"), (90, "1m30s")],
)  # fmt: skip
def test_durations_are_short_and_kubernetes_reads_them(seconds: float, words: str) -> None:
    assert span(seconds) == words
    assert parse_duration(words) == pytest.approx(seconds, rel=0.05, abs=0.001)


@pytest.mark.parametrize("limit", list(Limit))
def test_every_limit_has_its_words_and_its_advice(limit: Limit) -> None:
    what = told(limit=limit)
    assert (text(what) == text(told())) is (limit is Limit.NONE)
    rows = {condition.type: condition for condition in status(ITEM, what, THEN).conditions}
    limited = rows["ScalingLimited"]
    assert (limited.status.value == "True") is (limit is not Limit.NONE)
    assert limited.message.count(". ") >= (limit is not Limit.NONE)


@pytest.mark.parametrize("limit", [limit for limit in Limit if limit is not Limit.NONE])
def test_the_documentation_knows_every_limit(limit: Limit) -> None:
    document = Path(__file__).parent.parent.parent / "docs" / "scaling.md"
    assert f"`{limit.value}`" in document.read_text()


def test_tasks_that_wait_for_their_retry_are_not_nothing() -> None:
    def rows(delayed: int | None, *pods: Worker) -> tuple[str, str]:
        seen = Observation(Backlog(0, 0), len(pods), pods)
        decision = Decision(len(pods), 0, len(pods), Limit.NONE, Memory())
        what = Explained(None, None, View(seen, delayed=delayed), decision, SCALING)
        return text(what), next(row.message for row in status(ITEM, what, THEN).conditions if row.type == "Active")

    assert rows(30) == ("30 tasks wait for their retry", "30 tasks wait for their retry; no worker runs.")
    assert rows(1, Worker("a", Phase.READY, busy=False)) == (
        "1 task waits for its retry",
        "1 task waits for its retry; workers are still there.",
    )
    for none in (0, None):
        assert rows(none) == ("queue is empty", "There is nothing to do; no worker runs.")


def stuck(*pods: Worker, failing: str = "", problem: Problem | None = None) -> Explained:
    """One task, and as many pods as are wanted for it."""
    view = View(Observation(Backlog(1, 0), len(pods), pods), failing=failing)
    return Explained(problem, None, view, Decision(len(pods), 1, len(pods), Limit.NONE, Memory()), SCALING)


def test_where_no_worker_comes_up_that_is_told_though_no_more_are_wanted() -> None:
    bad, good = Worker("bad", Phase.FAILING), Worker("good", Phase.READY)
    pending = Worker("late", Phase.PENDING, age=301.0)
    what = stuck(Worker("new", Phase.STARTING), bad, failing="ImagePullBackOff")
    assert what.problem == Problem(
        Reason.WORKERS_FAILING,
        "no worker is up, and 1 pod cannot start (ImagePullBackOff): mend what `kubectl describe pod bad` tells",
    )
    assert stuck(pending, pending).problem == Problem(
        Reason.WORKERS_PENDING,
        "no worker is up, and 2 pods have been pending for over 5m: see `kubectl describe pod late`, and make room in "
        "the cluster, or have the workers ask for less",
    )
    assert stuck(pending, bad).problem == stuck(bad).problem, "what fails does not pass by itself"
    for fine in ((bad, good), (pending, good), (replace(pending, age=299.0),), (Worker("new", Phase.STARTING),), ()):
        assert stuck(*fine).problem is None
    assert stuck(replace(pending, busy=True)).problem is None, "it works, whatever Kubernetes says of it"
    cause = Problem(Reason.BROKER_UNAVAILABLE, "x")
    assert stuck(bad, problem=cause).problem == cause
    for beside in (Reason.EXCHANGE_MISMATCH, Reason.EVENTS_UNHEARD):
        assert stuck(bad, problem=Problem(beside, "x")).problem == stuck(bad).problem, "workers come all the same"


def test_where_workers_run_and_never_get_ready_that_is_told() -> None:
    """As with a password that is wrong for them, and right for the operator."""
    pods = (Worker("a", Phase.STARTING, age=400.0), Worker("b", Phase.STARTING, age=400.0))
    view = View(Observation(Backlog(9, 0), 2, pods), unready=("a", "b"))
    assert Explained(None, None, view).problem == Problem(
        Reason.WORKERS_UNREADY,
        "no worker is up, and 2 pods have run for over 5m without being ready: `kubectl logs a` tells why",
    )
    one_up = replace(view, seen=replace(view.seen, workers=(pods[0], Worker("b", Phase.READY))))
    assert Explained(None, None, one_up).problem is None


def test_where_pods_are_not_even_made_that_is_told_though_others_work() -> None:
    words = 'pods "w-1" is forbidden: exceeded quota: team'
    view = View(Observation(Backlog(40, 2), 8, (Worker("a", Phase.READY, busy=True),)), refused=words)
    assert Explained(None, None, view).problem == Problem(
        Reason.PODS_REFUSED,
        f"7 of 8 workers cannot be made: {words}; raise the quota, or see to what refuses pods "
        "(`kubectl describe replicaset`)",
    )
    all_there = replace(view, seen=replace(view.seen, replicas=1))
    assert Explained(None, None, all_there).problem is None, "that was before"


def test_what_is_told_of_workers_that_do_not_come_up_is_told_everywhere() -> None:
    what = stuck(Worker("bad", Phase.FAILING), failing="ImagePullBackOff")
    assert conditions(status(ITEM, what, THEN))["Ready"] == ("False", "WorkersFailing")
    [ready] = [row for row in status(ITEM, what, THEN).conditions if row.type == "Ready"]
    assert "ImagePullBackOff" in ready.message
    state = queue_state(ITEM, what, 5.0)
    assert state is not None
    assert state.problem.startswith("WorkersFailing: no worker is up")


@pytest.mark.parametrize(
    "reason",
    [
        *Reason,
        "Working",
        "InForce",
        "ForeignPolicy",
        "NotCompared",
        "Backlog",
        "Workers",
        "Idle",
        "BacklogUnknown",
        "Free",
    ],
)
def test_the_documentation_knows_what_conditions_say(reason: str) -> None:
    document = Path(__file__).parent.parent.parent / "docs" / "conditions.md"
    assert f"`{reason}`" in document.read_text()


def test_the_documentation_has_the_reasons_in_the_order_in_which_they_are_told() -> None:
    document = (Path(__file__).parent.parent.parent / "docs" / "conditions.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", document.partition("## The others")[0], re.MULTILINE) == [*Reason]


def test_whose_policy_applies_is_only_told_where_it_is_known() -> None:
    def told_of(what: Explained) -> tuple[str, str]:
        return conditions(status(ITEM, what, THEN))["PolicyOverridden"]

    def uncounted(what: Explained) -> Explained:
        assert what.view is not None
        return replace(what, view=replace(what.view, seen=replace(what.view.seen, counted=False)))

    unknown = ("Unknown", "NotCompared")
    assert told_of(told()) == ("False", "InForce")
    assert told_of(told(problem=Problem(Reason.SCALING_REFUSED, "x"))) == ("False", "InForce")
    assert told_of(uncounted(told())) == unknown, "the broker has not been listed"
    assert told_of(Explained(Problem(Reason.QUEUE_TAKEN, "by another"))) == unknown
    for reason in sorted(UNCOMPARED):
        assert told_of(told(problem=Problem(reason, "x"))) == unknown, reason
    assert told_of(uncounted(told(override="foreign"))) == ("True", "ForeignPolicy"), "found, and not found to be gone"
    [row] = [row for row in status(ITEM, uncounted(told()), THEN).conditions if row.type == "PolicyOverridden"]
    assert "not known" in row.message


def test_an_unknown_backlog_says_why() -> None:
    what = told(None, limit=Limit.UNKNOWN, replicas=4)
    assert text(what) == "backlog unknown: gone fishing, 4 stay"
    decision = status(ITEM, what, THEN).decision
    assert decision is not None
    assert decision.rule == "", "no target has asked for them"


def test_the_documentation_knows_every_rule() -> None:
    document = (Path(__file__).parent.parent.parent / "docs" / "scaling.md").read_text()
    assert [rule for rule in Rule if f"`{rule.value}`" not in document] == []


def test_a_queue_whose_workers_do_not_follow_is_not_said_to_have_them_follow() -> None:
    def message(what: Explained) -> str:
        return next(row.message for row in status(ITEM, what, THEN).conditions if row.type == "Ready")

    assert "follow the backlog" in message(told())
    assert "paused" in message(replace(told(), scaling=replace(SCALING, paused=True)))
    assert "suspended" in message(replace(told(), scaling=replace(SCALING, suspended=True)))
    assert "recommended" in message(replace(told(), recommended=True))


def test_a_recommendation_says_that_it_is_one() -> None:
    decision = status(ITEM, replace(told(), recommended=True), THEN).decision
    assert decision is not None
    assert decision.reason.endswith("(recommended only)")


def test_the_status_tells_the_story() -> None:
    body = status_patch(status(ITEM, told(limit=Limit.MAX_REPLICAS), THEN))["status"]
    assert body["observedGeneration"] == 3
    assert body["backlog"] == {"ready": 60, "unacked": 0, "delayed": None, "dead": 2}
    assert body["workers"] == {"total": 2, "busy": 1, "idle": 1}
    assert body["desiredReplicas"] == 12
    assert body["decision"]["from"] == 0
    assert body["decision"]["limitedBy"] == "maxReplicas"
    assert body["conditions"][0]["lastTransitionTime"] == "2026-01-01T12:00:00Z"


def written(first: Explained, item: WorkQueue = ITEM) -> WorkQueue:
    """The resource after this explanation has been written."""
    return replace(item, status=status_patch(status(item, first, THEN))["status"])


def test_times_are_those_of_the_change() -> None:
    later = THEN + timedelta(minutes=5)
    again = status(written(told()), told(current=12), later)
    assert again.decision is not None
    assert (again.decision.at, again.decision.from_) == ("2026-01-01T12:00:00Z", 0)
    assert {condition.last_transition_time for condition in again.conditions} == {"2026-01-01T12:00:00Z"}
    broken = status(written(told()), told(current=12, problem=Problem(Reason.BROKER_UNAVAILABLE, "x")), later)
    times = {condition.type: condition.last_transition_time for condition in broken.conditions}
    assert times["Ready"] == "2026-01-01T12:05:00Z"
    assert times["Active"] == "2026-01-01T12:00:00Z"


def test_conditions_follow_what_is_wrong() -> None:
    rows = conditions(status(ITEM, told(problem=Problem(Reason.QUEUE_MISMATCH, "differs"), override="foreign"), THEN))
    assert rows["Ready"] == ("False", "QueueMismatch")
    assert rows["PolicyOverridden"] == ("True", "ForeignPolicy")
    assert conditions(status(ITEM, told(), THEN))["Ready"] == ("True", "Working")
    assert conditions(status(ITEM, told(None), THEN))["Active"] == ("Unknown", "BacklogUnknown")


def test_without_a_view_there_are_conditions_only() -> None:
    result = status(ITEM, Explained(Problem(Reason.INVALID_SPEC, "no")), THEN)
    assert set(conditions(result)) == {"Ready", "PolicyOverridden"}
    assert result.backlog is None


def test_counts_alone_are_no_substance() -> None:
    assert substance(ITEM, told(Backlog(60, 0))) == substance(ITEM, told(Backlog(59, 1)))
    assert substance(ITEM, told()) != substance(ITEM, told(replicas=11))
    assert substance(ITEM, told()) != substance(ITEM, replace(told(), decisions=(PAST,)))


@pytest.mark.parametrize(("measured", "written"), [(None, None), (0.0, None), (3.5, "3.5/s")])
def test_that_nothing_comes_in_is_no_news_after_a_start(measured: float | None, written: str | None) -> None:
    what = told()
    assert what.view is not None
    view = replace(what.view, seen=replace(what.view.seen, arrival_rate=measured))
    assert status(ITEM, replace(what, view=view), THEN).arrival_rate == written


PAST = PastDecisionStatus(at="2026-01-01T11:59:00Z", from_=0, to=12, limited_by="", reason="so it was")


def decided(count: int) -> History:
    history: History = ()
    for number in range(count):
        decision = Decision(number, number + 1, number + 1, Limit.MAX_STEP, Memory())
        history = extended(history, decision, f"reason {number}", THEN + timedelta(seconds=number))
    return history


def test_the_last_ten_decisions_survive_a_restart_newest_first() -> None:
    history = decided(12)
    assert [(past.from_, past.to) for past in history] == [(number, number + 1) for number in range(11, 1, -1)]
    assert history[0].at == "2026-01-01T12:00:11Z"
    kept = status_patch(status(ITEM, replace(told(), decisions=history), THEN))["status"]
    assert recalled(kept) == history
    nothing_seen = status(ITEM, Explained(Problem(Reason.SCALE_TARGET_MISSING, "x"), decisions=history), THEN)
    assert nothing_seen.decisions == history, "a time without a view forgets none"


def test_a_long_reason_is_cut_and_nonsense_in_a_status_is_left_out() -> None:
    [past] = extended((), Decision(0, 1, 1, Limit.NONE, Memory()), "x" * 5000, THEN)
    assert len(past.reason) == 300
    good = PAST.model_dump(mode="json", by_alias=True)
    assert recalled({"decisions": [good, {**good, "at": "yesterday"}, {"from": "x"}, 7]}) == (PAST,)
    assert recalled({"decisions": "none"}) == recalled({}) == ()


def test_a_decision_that_changes_nothing_has_the_time_of_the_change_that_led_to_it() -> None:
    decision = status(ITEM, replace(told(current=12), decisions=(PAST,)), THEN).decision
    assert decision is not None
    assert (decision.at, decision.from_, decision.to) == ("2026-01-01T11:59:00Z", 0, 12)


def test_a_recommendation_that_is_not_followed_keeps_its_time() -> None:
    advised = replace(told(), recommended=True)
    again = status(written(advised), advised, THEN + timedelta(minutes=5)).decision
    assert again is not None
    assert (again.at, again.from_, again.to) == ("2026-01-01T12:00:00Z", 0, 12)
    assert again.remedy.startswith("Set mode to Enforce")


def test_the_same_sentence_is_everywhere() -> None:
    what = told(limit=Limit.MAX_REPLICAS)
    body = status(ITEM, what, THEN)
    state = queue_state(ITEM, what, 5.0)
    decision = what.decision
    assert body.decision is not None
    assert state is not None
    assert decision is not None
    assert body.decision.reason == state.reason == what.reason == text(what)
    assert extended((), decision, what.reason, THEN)[0].reason == what.reason
    assert scaled(decision, what.reason).message == f"0 → 12 workers: {what.reason}"
    [limited] = [row for row in body.conditions if row.type == "ScalingLimited"]
    assert limited.message.casefold().startswith(what.reason.casefold())
    assert limited.message.endswith(body.decision.remedy or "passes by itself.")
    assert body.decision.remedy == " ".join(state.remedies)


def test_events_are_for_what_begins_and_ends() -> None:
    def notes(before: Explained, after: Explained) -> list[tuple[str, bool]]:
        found = transitions(written(before).status["conditions"], status(ITEM, after, THEN).conditions)
        return [(note.reason, note.warning) for note in found]

    well, ill = told(), told(problem=Problem(Reason.BROKER_UNAVAILABLE, "x"))
    assert notes(well, well) == []
    assert notes(well, ill) == [("BrokerUnavailable", True)]
    assert notes(ill, ill) == []
    assert notes(ill, told(problem=Problem(Reason.QUEUE_MISMATCH, "y"))) == [("QueueMismatch", True)]
    assert notes(ill, well) == [("Ready", False)]
    assert notes(well, told(override="z")) == [("ForeignPolicy", True)]
    assert notes(told(override="z"), well) == [("PolicyInForce", False)]
    assert notes(well, told(Backlog(0, 0), limit=Limit.UNCONFIRMED)) == []
    away = told(problem=Problem(Reason.BROKER_UNAVAILABLE, "x"))
    assert notes(away, well) == [("Ready", False)], "whose policy applies was not known, and is as it should be"
    assert notes(told(override="z"), away) == [("BrokerUnavailable", True)], "what is not known is no news"


def test_a_new_resource_that_is_ill_is_an_event() -> None:
    found = transitions([], status(ITEM, told(problem=Problem(Reason.SCALE_TARGET_MISSING, "x")), THEN).conditions)
    assert [(note.reason, note.warning) for note in found] == [("ScaleTargetMissing", True)]


def test_an_event_names_its_resource() -> None:
    decision = told().decision
    assert decision is not None
    body: dict[str, Any] = event_body(ITEM, scaled(decision, "because"), "operator-1", THEN)
    assert body["involvedObject"]["uid"] == "u-1"
    assert (body["reason"], body["type"]) == ("ScaledUp", "Normal")
    assert body["message"] == "0 → 12 workers: because"


def test_the_event_message_has_the_same_sentence() -> None:
    what = told(limit=Limit.MAX_REPLICAS)
    state = queue_state(ITEM, what, 5.0)
    assert state is not None
    assert state.reason == text(what)
    assert (state.queue, state.resource) == ("thumbnails", "media/thumbnails")
    assert (state.ready, state.desired, state.max_replicas, state.limited_by) == (60, 12, 12, "maxReplicas")


def test_the_event_message_has_all_that_explains() -> None:
    what = replace(told(limit=Limit.MAX_REPLICAS), decisions=decided(12))
    state = queue_state(ITEM, what, 5.0)
    assert state is not None
    assert (state.asked, state.rule, state.idle, state.problem) == (12, "backlogPerWorker", 1, "")
    assert len(state.decisions) == 10
    assert state.decisions[0].at == (THEN + timedelta(seconds=11)).timestamp()
    assert decode(encode(state)) == state


def test_the_event_message_stays_small_whatever_there_is_to_say() -> None:
    problem = Problem(Reason.QUEUE_UNAVAILABLE, "x" * 100_000)
    history = tuple(replace_reason(past, "y" * 300) for past in decided(12))
    state = queue_state(ITEM, replace(told(problem=problem), decisions=history), 5.0)
    assert state is not None
    assert len(encode(state)) < 10_000 < MAX_EVENT_SIZE


def replace_reason(past: PastDecisionStatus, reason: str) -> PastDecisionStatus:
    return past.model_copy(update={"reason": reason})


def test_a_problem_is_told_though_nothing_is_seen() -> None:
    state = queue_state(ITEM, Explained(Problem(Reason.SCALE_TARGET_MISSING, "make it")), 5.0)
    assert state is not None
    assert (state.problem, state.ready, state.desired, state.reason) == ("ScaleTargetMissing: make it", None, None, "")
    blind = queue_state(ITEM, told(None, problem=Problem(Reason.QUEUE_UNAVAILABLE, "no leader")), 5.0)
    assert blind is not None
    assert (blind.ready, blind.asked, blind.rule) == (None, None, "")


def test_only_the_owner_of_a_queue_speaks_of_it() -> None:
    assert queue_state(ITEM, Explained(Problem(Reason.QUEUE_TAKEN, "by another")), 5.0) is None
    assert queue_state(replace(ITEM, spec=None), Explained(Problem(Reason.INVALID_SPEC, "no")), 5.0) is None


def test_the_spec_is_not_needed_to_explain_that_it_is_wrong() -> None:
    broken: Spec | None = None
    result = status(replace(ITEM, spec=broken, problem="no"), Explained(Problem(Reason.INVALID_SPEC, "no")), THEN)
    assert conditions(result)["Ready"] == ("False", "InvalidSpec")
