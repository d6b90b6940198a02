"""
What every replay does with one partition: read what is held, then decide its events again and compare.

Also the deciders that replays, audits and rebuilds use: the processors' own.
"""

from collections.abc import Callable, Set
from functools import partial

from keymill.config import ProcessorSettings
from keymill.kms.keyring import Keyring
from keymill.ops.held import Held
from keymill.ops.recomputed import Winners
from keymill.ops.replaying import WHOLE, Lacking, Scope, compare, pass_over
from keymill.ops.replaying_policies import HeldPolicies, compare_policies
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas.framing import decode_event
from schemas.records import DeadLetter
from streams import decide, policies
from streams.registry import registry_lookup

Refuse = Callable[[DeadLetter], None]
"""Is told every dead letter that is not there."""


def keep(_letter: DeadLetter) -> None:
    """The `Refuse` of who only counts."""


def asset_decider(
    settings: ProcessorSettings, keyring: Keyring, assets: Source, kind: type[decide.Decider] = decide.Decider
) -> decide.Decider:
    """The processors' own, or one that decides as they do, for what that source holds."""
    decoder = partial(decode_event, registry=registry_lookup(settings.registry_url))
    return kind(keyring, decoder, partitions=assets.partitions, generation=assets.adopted.generation)


def policy_decider(keyring: Keyring, changes: Source) -> policies.Decider:
    """The processors' own, for what that source holds."""
    return policies.Decider(keyring, partitions=changes.partitions, generation=changes.adopted.generation)


def verify_assets(
    assets: Source, partition: int, decider: decide.Decider, report: Report, winners: Winners,
    *, scope: Scope = WHOLE, start: int | None = None,
    lacking: Lacking = pass_over, refuse: Refuse = keep, done: int = 0,
) -> Held:  # fmt: skip
    """Replay one partition of the asset events from *start* on; returns what the key topic holds."""
    held = Held(partition)
    for record_key, value in assets.held(partition):
        if scope.has(record_key):
            held.add(record_key, value, report)
        else:
            held.pass_by(record_key, value)
    compare(
        assets.events(partition, start), held, decider, assets.adopted.generation, report, assets.refused(partition),
        winners=winners, scope=scope, lacking=lacking, refuse=refuse, done=done,
    )  # fmt: skip
    return held


def verify_policies(
    changes: Source, partition: int, decider: policies.Decider, report: Report,
    *, lacking: Lacking = pass_over, refuse: Refuse = keep, done: int = 0, only: Set[bytes] | None = None,
) -> HeldPolicies:  # fmt: skip
    """Replay one partition of the policy changes; returns what the policy topic holds, or of it *only* those."""
    held = HeldPolicies()
    for record_key, value in changes.held(partition):
        if only is None or record_key in only:
            held.add(record_key, value, report)
        else:
            held.pass_by(value)
    compare_policies(
        changes.events(partition), held, decider, changes.adopted.generation, report, changes.refused(partition),
        lacking=lacking, refuse=refuse, done=done, only=only,
    )  # fmt: skip
    return held
