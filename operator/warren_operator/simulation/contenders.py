"""Who is compared: WorkQueues, from files or from a few words, and their rivals."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from warren_contract.durations import parse_duration
from warren_operator.policy import USUAL_BACKLOG_PER_WORKER
from warren_operator.resource import KIND, ResourceError, Spec, parse_spec
from warren_operator.simulation.model import Scaler
from warren_operator.simulation.rivals import HpaRule, Rival, RivalRule
from warren_operator.simulation.warren import Warren

RIVALS = ("keda", "keda-tuned", "hpa")

LEAST_TARGET = 0.001
"""Tasks for each pod: what is less has no meaning, and at some point no number of pods."""


class ContenderError(ValueError):
    """A contender cannot be understood; the message says which, and what to write."""


@dataclass(frozen=True)
class Contender:
    """Somebody who scales.

    Attributes:
        name: to show.
        concurrency: tasks at once in one of the workers.
        make: a fresh scaler, for a trace that starts at the given Unix time.
        spec: of a WorkQueue; None for a rival.
    """

    name: str
    concurrency: int
    make: Callable[[float], Scaler]
    spec: Spec | None = None


def contenders(texts: Sequence[str], read: Callable[[str], str]) -> list[Contender]:
    """The contenders that the texts name, in their order.

    Args:
        texts: as the help of the command lists them.
        read: the content of a file.

    Raises:
        ContenderError: a text is none of them.
        OSError: a file cannot be read.
    """
    ours = {text: _work_queues(text, read) for text in texts if _rival_name(text) is None}
    first = next((item.spec for found in ours.values() for item in found), None)
    found: list[Contender] = []
    for text in texts:
        found += ours[text] if text in ours else [_rival(text, first)]
    return [_numbered(item, found[:index]) for index, item in enumerate(found)]


def _numbered(item: Contender, before: Sequence[Contender]) -> Contender:
    """Two of one name are told apart."""
    same = sum(other.name == item.name for other in before)
    return Contender(f"{item.name} ({same + 1})", item.concurrency, item.make, item.spec) if same else item


# -- WorkQueues --------------------------------------------------------------------------------------------------------

_WORDS: Mapping[str, tuple[str, ...]] = {
    "backlogPerWorker": ("target", "backlogPerWorker"),
    "maxWait": ("target", "maxWait"),
    "minReplicas": ("minReplicas",),
    "maxReplicas": ("maxReplicas",),
    "concurrency": ("concurrency",),
    "timeLimit": ("timeLimit",),
    "stabilization": ("behavior", "scaleDown", "stabilization"),
    "maxStep": ("behavior", "scaleUp", "maxStep"),
}


_NUMBERS = ("backlogPerWorker", "minReplicas", "maxReplicas", "concurrency", "maxStep")


def _work_queues(text: str, read: Callable[[str], str]) -> list[Contender]:
    if text.partition("=")[0] in _WORDS:
        return [_work_queue(text, _spec_in_words(text), text)]
    try:
        documents = [item for item in yaml.safe_load_all(read(text)) if item is not None]
    except yaml.YAMLError as error:
        raise ContenderError(f"{text} is not YAML: {error}") from error
    found = [_work_queue(*item, text) for document in documents for item in _specs(document, text)]
    if not found:
        raise ContenderError(f"{text} holds no WorkQueue (kind: {KIND}) and no values of the chart (queues: …)")
    return found


def _work_queue(name: str, raw: Any, text: str) -> Contender:
    try:
        spec = parse_spec(raw, name if "=" not in name else "queue")
    except ResourceError as error:
        raise ContenderError(f"{text}: {error}") from error
    if spec.paused or spec.suspend or spec.max_replicas == 0:
        raise ContenderError(f"{text}: {name} is paused, suspended or without workers: there is nothing to simulate")
    return Contender(name, spec.concurrency, lambda start: Warren(spec, start), spec)


def _spec_in_words(text: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"scaleTargetRef": {"name": "worker"}}
    for name, value in _pairs(text):
        path = _WORDS.get(name)
        if path is None:
            raise ContenderError(f"{text}: {name} is none of {', '.join(_WORDS)}; write the rest in a file")
        place = spec
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = int(value) if name in _NUMBERS and value.isdecimal() else value
    return spec


def _specs(document: Any, text: str) -> Iterator[tuple[str, Any]]:
    """(name, spec) of each WorkQueue in a document."""
    if not isinstance(document, dict):
        return
    if document.get("kind") == KIND:
        metadata = _mapping(document.get("metadata"), f"{text}: metadata")
        yield str(metadata.get("name", "queue")), document.get("spec")
    elif str(document.get("kind", "")).endswith("List"):
        items = document.get("items")
        for item in items if isinstance(items, list) else ():
            yield from _specs(item, text)
    elif isinstance(document.get("queues"), dict):
        usual = _merged(_CHART, _mapping(document.get("worker"), f"{text}: worker"))
        for name, entry in document["queues"].items():
            if entry is not None:
                where = f"{text}: queues.{name}"
                yield str(name), _spec_of_values(usual, _mapping(entry, where), where)


_CHART: Mapping[str, Any] = {
    "replicas": {"min": 0, "max": 10},
    "target": {"backlogPerWorker": USUAL_BACKLOG_PER_WORKER},
}
"""The chart's own `worker`, which values are merged over, as far as a WorkQueue has no such default."""


def _spec_of_values(usual: Mapping[str, Any], entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the chart makes of an entry in its values, as far as it matters for scaling. See its `_queue.tpl`."""
    if entry.get("target"):  # it is taken whole
        usual = {name: value for name, value in usual.items() if name != "target"}
    settings = _merged(usual, entry)
    replicas = _mapping(settings.get("replicas"), f"{where}.replicas")
    spec: dict[str, Any] = {"scaleTargetRef": {"name": "worker"}}
    spec["minReplicas"], spec["maxReplicas"] = replicas.get("min", 0), replicas.get("max", 10)
    for name in ("target", "behavior", "concurrency", "timeLimit", "schedule", "paused", "suspend"):
        if name in settings:
            spec[name] = settings[name]
    return spec


def _merged(usual: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values over others, as Helm merges them: mappings within mappings, and null takes away."""
    both = {
        name: _merged(usual[name] if isinstance(usual.get(name), dict) else {}, value)
        if isinstance(value, dict)
        else value
        for name, value in over.items()
    }
    return {name: value for name, value in {**usual, **both}.items() if value is not None}


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping in a file; an empty one where there is nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ContenderError(f"{where} is {value!r}: write names and their values")
    return value


# -- rivals ------------------------------------------------------------------------------------------------------------


def _rival_name(text: str) -> str | None:
    name = text.partition(":")[0]
    return name if name in RIVALS else None


def _rival(text: str, first: Spec | None) -> Contender:
    name, _, rest = text.partition(":")
    options = dict(_pairs(rest)) if rest else {}

    def take(key: str, parse: Callable[[str], Any], usual: Any) -> Any:
        value = options.pop(key, None)
        try:
            return usual if value is None else parse(value)
        except ValueError as error:
            raise ContenderError(f"{text}: {key}: {error}") from error

    tuned = name == "keda-tuned"
    with_keda = name != "hpa"
    per_worker = (first.target.backlog_per_worker if first else None) or USUAL_BACKLOG_PER_WORKER
    least = take("minReplicas", _count, first.min_replicas if first else 0)
    most = take("maxReplicas", _count, first.max_replicas if first else 10)
    free = take("steps", _free, tuned)
    hpa = HpaRule(
        target=take("target", _number, per_worker),
        min_replicas=max(1, least),
        max_replicas=max(1, most),
        sync=take("sync", _positive, 15.0),
        tolerance=take("tolerance", _number, 0.1),
        stabilization=take("stabilization", parse_duration, 0.0 if tuned else 300.0),
        step_pods=None if free else 4,
    )
    rule = RivalRule(
        hpa=hpa,
        keda=with_keda,
        min_replicas=least if with_keda else max(1, least),
        polling=take("pollingInterval", _positive, 1.0 if tuned else 30.0),
        cooldown=take("cooldownPeriod", parse_duration, 10.0 if tuned else 300.0),
        unacked=take("unacked", _truth, usual=True),
        grace=take("grace", parse_duration, 30.0),
    )
    concurrency = take("concurrency", _count, first.concurrency if first else 1)
    if options:
        raise ContenderError(f"{text}: {', '.join(options)} is no option of {name}; see --help")
    if hpa.target < LEAST_TARGET or concurrency < 1 or hpa.min_replicas > hpa.max_replicas:
        raise ContenderError(f"{text}: the target and the bounds have to be above zero, and in order")
    return Contender(text, concurrency, lambda _: Rival(rule))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(","):
        name, found, value = part.partition("=")
        if not found or not name.strip() or not value.strip():
            raise ContenderError(f"{part!r} is no setting: write name=value, such as maxReplicas=12")
        yield name.strip(), value.strip()


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is no number from zero on")
    return value


def _positive(text: str) -> float:
    value = parse_duration(text)
    if value <= 0:
        raise ValueError(f"{text!r} has to be longer than nothing")
    return value


def _free(text: str) -> bool:
    if text != "free":
        raise ValueError(f"{text!r}: write free, or leave it out")
    return True


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"
