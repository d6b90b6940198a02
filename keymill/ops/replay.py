"""
`keymill replay`: read the log from its beginning and compare (ARCHITECTURE.md, step 9).

Writes nothing, may run while everything serves.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from keymill.config import ProcessorSettings, load
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.address import bootstrap_of
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.replaying import Held, Report, compare
from keymill.ops.replaying_policies import HeldPolicies, compare_policies
from schemas import topics
from schemas.codec import decode
from schemas.framing import decode_event
from schemas.records import DeadLetter, TopicAdopted
from streams import decide, policies
from streams.registry import registry_lookup
from streams.reread import raw_record
from streams.runs import RawRecord


class Reading(NamedTuple):
    """One source topic and the topic made of it, and their ends when the replay began."""

    bootstrap: str
    source: str
    adopted: TopicAdopted
    source_ends: Mapping[int, int]
    made: str
    made_ends: Mapping[int, int]
    letter_ends: Mapping[int, int]

    def held(self, partition: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Every record that was made, by record key."""
        for message in scan_partition(self.bootstrap, self.made, partition, end=self.made_ends[partition]):
            yield message.key() or b"", message.value()

    def events(self, partition: int) -> Iterator[RawRecord]:
        """Every record of the source."""
        return map(raw_record, scan_partition(self.bootstrap, self.source, partition, end=self.source_ends[partition]))

    def refused(self, partition: int) -> frozenset[int]:
        """Offsets of the source that have a dead letter, which stands on the partition of the same number."""
        end, at = self.letter_ends[partition], (self.source, partition, self.adopted.generation)
        found = scan_partition(self.bootstrap, topics.DEAD_LETTERS.name, partition, end=end)
        letters = [letter for message in found if (letter := _letter(message.value()))]
        return frozenset(each.offset for each in letters if (each.topic, each.partition, each.generation) == at)


def verify(settings: ProcessorSettings, bootstrap: str, console: Console) -> Report:
    """Replay every partition of both source topics; a progress bar on a terminal, nothing elsewhere."""
    assets, changes = _readings(bootstrap)
    decoder = partial(decode_event, registry=registry_lookup(settings.registry_url))
    keyring = Keyring(KeyFile(settings.keys_path))
    of_assets, of_changes = assets.adopted, changes.adopted
    decider = decide.Decider(keyring, decoder, partitions=of_assets.partitions, generation=of_assets.generation)
    keeper = policies.Decider(keyring, partitions=of_changes.partitions, generation=of_changes.generation)
    report = Report()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=of_assets.partitions + of_changes.partitions)
        for partition in range(of_assets.partitions):
            _verify_assets(assets, partition, decider, report)
            progress.advance(task)
        for partition in range(of_changes.partitions):
            _verify_policies(changes, partition, keeper, report)
            progress.advance(task)
    return report


def _verify_assets(reading: Reading, partition: int, decider: decide.Decider, report: Report) -> None:
    held = Held(partition)
    for record_key, value in reading.held(partition):
        held.add(record_key, value, report)
    refused, generation = reading.refused(partition), reading.adopted.generation
    compare(reading.events(partition), held, decider, generation, report, refused)


def _verify_policies(reading: Reading, partition: int, decider: policies.Decider, report: Report) -> None:
    held = HeldPolicies()
    for record_key, value in reading.held(partition):
        held.add(record_key, value, report)
    refused, generation = reading.refused(partition), reading.adopted.generation
    compare_policies(reading.events(partition), held, decider, generation, report, refused)


def _readings(bootstrap: str) -> tuple[Reading, Reading]:
    pairs = ((topics.ASSETS.name, topics.KEYS.name), (topics.POLICY_CHANGES.name, topics.POLICIES.name))
    adopted = require_topics(bootstrap, [*chain(*pairs), topics.DEAD_LETTERS.name])
    made = [end_offsets(bootstrap, name) for _, name in pairs]  # before the events': what comes meanwhile is pending
    sources = [end_offsets(bootstrap, name) for name, _ in pairs]
    letters = end_offsets(bootstrap, topics.DEAD_LETTERS.name)
    first, second = (
        Reading(bootstrap, source, adopted[source], sources[number], name, made[number], letters)
        for number, (source, name) in enumerate(pairs)
    )
    return first, second


def _letter(value: bytes | None) -> DeadLetter | None:
    try:
        return decode(value or b"", DeadLetter)
    except InvalidRecord:
        return None  # somebody else's record: what it might refuse shows up as missing


def replay(settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False) -> int:
    """
    Derive again what every event and policy change calls for and compare it with keys and policies; changes nothing.

    Exit code 1 when anything is missing, different or unexpected; each difference is listed.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    report = verify(loaded, bootstrap_of(loaded), Console(stderr=True))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _show(report)
    return 0 if report.clean() else 1


def _show(report: Report) -> None:
    for each in report.differences:
        typer.echo(f"{each.kind}: {each.record_key}: {each.detail}")
    typer.echo(
        f"{report.events} events: {report.identical} records identical, {report.missing} missing, "
        f"{report.different} different, {report.unexpected} unexpected, {report.refused} events refused, "
        f"{report.pending} pending"
    )
