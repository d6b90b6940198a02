"""`keymill replay`: read the log from its beginning and compare. Writes nothing, may run while everything serves."""

from functools import partial

import msgspec
import typer
from confluent_kafka import Message
from rich.console import Console
from rich.progress import Progress

from keymill.config import ProcessorSettings, load
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.scan import headers_of, scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.address import bootstrap_of
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.replaying import Held, Report, compare
from schemas import topics
from schemas.codec import decode
from schemas.framing import decode_event
from schemas.records import DeadLetter
from streams.decide import Decider
from streams.registry import registry_lookup
from streams.runs import RawRecord


def verify(settings: ProcessorSettings, bootstrap: str, console: Console) -> Report:
    """Replay every partition of the asset topic; a progress bar on a terminal, nothing elsewhere."""
    adopted = require_topics(bootstrap, (topics.ASSETS.name, topics.KEYS.name, topics.DEAD_LETTERS.name))
    source = adopted[topics.ASSETS.name]
    decoder = partial(decode_event, registry=registry_lookup(settings.registry_url))
    keyring = Keyring(KeyFile(settings.keys_path))
    decider = Decider(keyring, decoder, partitions=source.partitions, generation=source.generation)
    report = Report()
    key_ends = end_offsets(bootstrap, topics.KEYS.name)  # before the events' ends: what is folded meanwhile is pending
    event_ends = end_offsets(bootstrap, topics.ASSETS.name)
    letter_ends = end_offsets(bootstrap, topics.DEAD_LETTERS.name)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=source.partitions)
        for partition in range(source.partitions):
            held = _held(bootstrap, partition, key_ends[partition], report)
            refused = _refused(bootstrap, partition, letter_ends[partition], source.generation)
            events = map(_raw, scan_partition(bootstrap, topics.ASSETS.name, partition, end=event_ends[partition]))
            compare(events, held, decider, source.generation, report, refused)
            progress.advance(task)
    return report


def _held(bootstrap: str, partition: int, end: int, report: Report) -> Held:
    held = Held(partition)
    for message in scan_partition(bootstrap, topics.KEYS.name, partition, end=end):
        held.add(message.key() or b"", message.value(), report)
    return held


def _refused(bootstrap: str, partition: int, end: int, generation: int) -> frozenset[int]:
    """Offsets of the asset partition that have a dead letter, which stands on the partition of the same number."""
    letters = (
        _letter(message.value()) for message in scan_partition(bootstrap, topics.DEAD_LETTERS.name, partition, end=end)
    )
    return frozenset(
        letter.offset
        for letter in letters
        if letter and (letter.topic, letter.partition, letter.generation) == (topics.ASSETS.name, partition, generation)
    )


def _letter(value: bytes | None) -> DeadLetter | None:
    try:
        return decode(value or b"", DeadLetter)
    except InvalidRecord:
        return None  # somebody else's record: what it might refuse shows up as missing


def _raw(message: Message) -> RawRecord:
    kind, timestamp = message.timestamp()
    return RawRecord(
        topic=str(message.topic()),
        partition=int(message.partition() or 0),
        offset=int(message.offset() or 0),
        timestamp_ms=timestamp,
        timestamp_type=kind,
        key=message.key(),
        value=message.value(),
        headers=headers_of(message),
    )


def replay(settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False) -> int:
    """
    Derive again what every asset event calls for and compare it with the key topic; changes nothing.

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
