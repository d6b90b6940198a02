"""What fills a topic from its source, record by record that it lacks: for rebuilds, and for another set of topics."""

from collections.abc import Callable

from keymill.config import ProcessorSettings
from keymill.kafka.admin import group_offsets
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.changes import Changes
from keymill.ops.claimed import winners_of
from keymill.ops.held import Held
from keymill.ops.progress import Advance
from keymill.ops.rebuilding import lacking_to, refused_to
from keymill.ops.replay_partitions import asset_decider, policy_decider
from keymill.ops.replaying import compare
from keymill.ops.replaying_policies import HeldPolicies, compare_policies
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas.topics import ASSETS
from streams.runs import RawRecord

Fill = Callable[[ProcessorSettings, str, Source, Changes, Report], None]


def fill_keys(settings: ProcessorSettings, bootstrap: str, assets: Source, changes: Changes, report: Report) -> None:
    """Every asset and key record; an event that was decided once and has lost its claim is told as a difference."""
    decider = asset_decider(settings, Keyring(KeyFile(settings.keys_path)), assets)
    winners, committed = winners_of(assets.scanner, bootstrap), group_offsets(bootstrap, settings.group)

    def unclaimed(event: RawRecord) -> None:
        if event.offset < committed.get((ASSETS.name, event.partition), 0):
            report.note("different", event.key or b"", f"the claims of the event at offset {event.offset} are lost")

    with Advance("rebuilding keys, events", sum(assets.source_ends.values())) as progress:
        for partition in range(assets.partitions):
            held = Held(partition)
            for record_key, value in assets.held(partition):
                held.add(record_key, value, report)
            compare(
                assets.events(partition), held, decider, assets.adopted.generation, report, assets.refused(partition),
                lacking=lacking_to(changes, assets.pair.made.name, partition), refuse=refused_to(changes),
                unclaimed=unclaimed, all_due=True, winners=winners,
            )  # fmt: skip
            progress.step(assets.source_ends[partition])


def fill_policies(
    settings: ProcessorSettings, _bootstrap: str, source: Source, changes: Changes, report: Report
) -> None:
    """Every policy as it stands after its last change, in the order of those."""
    keeper = policy_decider(Keyring(KeyFile(settings.keys_path)), source)
    with Advance("rebuilding policies, changes", sum(source.source_ends.values())) as progress:
        for partition in range(source.partitions):
            held = HeldPolicies()
            for record_key, value in source.held(partition):
                held.add(record_key, value, report)
            compare_policies(
                source.events(partition), held, keeper, source.adopted.generation, report, source.refused(partition),
                lacking=lacking_to(changes, source.pair.made.name, partition), refuse=refused_to(changes), all_due=True,
            )  # fmt: skip
            progress.step(source.source_ends[partition])
