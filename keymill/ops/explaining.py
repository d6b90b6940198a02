"""A lineage of the local view, completed step by step with what the log says, as far as the log can be asked."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from keymill.config import ProcessorSettings
from keymill.errors import KeymillError
from keymill.ops.exits import exit_code_of
from keymill.ops.lineage import Answered, AssetLineage, EventTold, KeyLineage, PolicyTold, RequestLineage
from keymill.ops.lineage_log import Interrupted, Log
from keymill.ops.lineage_view import kid_of
from schemas.audit import EventPlace, What
from schemas.records import KeyOrigin

L = TypeVar("L", KeyLineage, AssetLineage, RequestLineage)
Step = Callable[[Log, L], L]
READS: Final = frozenset({What.LICENSE.value, What.KEY_DELIVERY.value})


def complete(lineage: L, settings: ProcessorSettings, steps: Sequence[Step[L]]) -> tuple[L, int]:
    """
    The lineage after as many steps as the log allows, and the exit code of what kept it from the rest.

    Each step is whole or not there; `incomplete` says why.
    """
    try:
        with Log(settings) as log:
            for step in steps:
                lineage = step(log, lineage)
    except Interrupted as stopped:
        return _interrupted(lineage, str(stopped.error), stopped.told), exit_code_of(stopped.error)
    except KeymillError as error:
        return _interrupted(lineage, str(error), None), exit_code_of(error)
    return lineage, 0


def with_events(log: Log, lineage: L) -> L:
    """What the log says of the events that the lineage names; keys of one event share it."""
    seen: dict[EventTold, EventTold] = {}

    def told(event: EventTold) -> EventTold:
        if event.found is None and event not in seen:
            seen[event] = log.event(event)
        return seen.get(event, event)

    return _with(lineage, told)


def with_claims(log: Log, lineage: L) -> L:
    """The claims of chosen and imported KIDs."""
    if isinstance(lineage, AssetLineage):
        return lineage
    if isinstance(lineage, RequestLineage):
        return msgspec.structs.replace(lineage, keys=tuple(with_claims(log, key) for key in lineage.keys))
    if lineage.origin == KeyOrigin.DERIVED.value:
        return lineage
    return msgspec.structs.replace(lineage, claim=log.claim(lineage.organization, kid_of(lineage.kid) or b""))


def with_policies(log: Log, lineage: RequestLineage) -> RequestLineage:
    """Each policy in the version that the answer was made under; the log is asked for what is not the view's."""
    told: dict[tuple[str, int, int], PolicyTold] = {}
    held = {(key.organization, key.policy.id, key.policy.version): key.policy for key in lineage.keys}
    for answer in lineage.answers:
        if answer.policy_id is None or answer.policy_version is None:
            continue
        name = (answer.organization, answer.policy_id, answer.policy_version)
        if name not in told:
            told[name] = held.get(name) or log.policy(*name)
    return msgspec.structs.replace(lineage, policies=tuple(told.values()))


def with_audit(since_ms: int, last: int) -> Callable[[Log, L], L]:
    """A step: who sent the events, and the last licenses and key reads, newest last."""

    def step(log: Log, lineage: L) -> L:
        if isinstance(lineage, RequestLineage):
            senders = {event.request_id for event in _events(lineage) if event.request_id}
            needles = [each.encode() for each in senders]
            found = log.audit(since_ms, needles, lambda e: e.request_id in senders) if needles else []
            return _with(lineage, lambda event: _sent(event, found))
        about, asset = lineage.organization, lineage.asset
        found = log.audit(since_ms, [asset.encode()], lambda e: (e.organization, e.asset) == (about, asset))
        reads = [each for each in found if each.what in READS and _concerns(lineage, each)]
        lineage = msgspec.structs.replace(lineage, audit=tuple(reads[-last:] if last else ()))
        return _with(lineage, lambda event: _sent(event, found))

    return step


def _concerns(lineage: KeyLineage | AssetLineage, answer: Answered) -> bool:
    return isinstance(lineage, AssetLineage) or lineage.kid in answer.kids


def _sent(event: EventTold, found: Sequence[Answered]) -> EventTold:
    """The event with the gateway's note of the request that it was."""
    place = EventPlace(
        topic=event.topic, partition=event.partition or 0, generation=event.generation, offset=event.offset
    )
    asked = next((each for each in found if each.event == place), None)
    return msgspec.structs.replace(event, asked=asked) if asked else event


def _events(lineage: KeyLineage | AssetLineage | RequestLineage) -> tuple[EventTold, ...]:
    if isinstance(lineage, KeyLineage):
        return (lineage.event,)
    if isinstance(lineage, AssetLineage):
        return lineage.events
    return (*lineage.events, *(key.event for key in lineage.keys))


def _with(lineage: L, told: Callable[[EventTold], EventTold]) -> L:
    """The lineage with every event put through *told*."""
    if isinstance(lineage, KeyLineage):
        return msgspec.structs.replace(lineage, event=told(lineage.event))
    events = tuple(told(event) for event in lineage.events)
    if isinstance(lineage, AssetLineage):
        return msgspec.structs.replace(lineage, events=events)
    return msgspec.structs.replace(lineage, events=events, keys=tuple(_with(key, told) for key in lineage.keys))


def _interrupted(lineage: L, why: str, known: EventTold | None) -> L:
    """Events that were not asked for say why; of the one at hand there is what is known."""

    def told(event: EventTold) -> EventTold:
        if known is not None and (event.partition, event.offset) == (known.partition, known.offset):
            return known
        return msgspec.structs.replace(event, error=why) if event.found is None else event

    return msgspec.structs.replace(_with(lineage, told), incomplete=why)
