"""One pass of an audit: every log, every topic made of it, and the copies, each read once, partition by partition."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from sqlalchemy import URL

from keymill.archive.reading import ArchiveReader
from keymill.config import ProcessorSettings
from keymill.core.envelope import unwrap_keys
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import source
from keymill.ops.audit_archive import ArchiveCopy, Ends
from keymill.ops.auditing import Audit, Claims
from keymill.ops.auditing_copies import Copy, compare_copy, find_strangers
from keymill.ops.ledger import Ledger
from keymill.ops.progress import Advance
from keymill.ops.replay_partitions import asset_decider, policy_decider, verify_assets, verify_policies
from keymill.ops.report import Report
from keymill.ops.source import Source
from keymill.ops.verifying import Verifier
from keymill.snapshot.reader import SnapshotReader
from keymill.sql import name_of
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key
from schemas.records import Claim, KeyRecord
from streams import policies

MADE = (topics.KEYS.name, topics.POLICIES.name)


class Wanted(NamedTuple):
    """What is compared beside the topics: a ledger of before, views, an archive; and whether keys are unwrapped."""

    before: Ledger | None = None
    snapshots: tuple[Path, ...] = ()
    archive: URL | None = None
    open: bool = True


class _Listed(NamedTuple):
    """A copy, and the record keys that it has of a topic."""

    copy: Copy
    keys: Callable[[str], Iterator[bytes]]


def audit_once(settings: ProcessorSettings, bootstrap: str, wanted: Wanted, console: Console) -> Audit:
    """Everything once. Raises what reading the topics raises."""
    with ExitStack() as stack:
        scanner = stack.enter_context(Scanner(bootstrap))
        assets = Source.open(scanner, bootstrap, source.ASSETS)
        changes = Source.open(scanner, bootstrap, source.POLICIES)
        claim_ends = _claim_ends(bootstrap)  # later than the records', so that each finds its claim
        keyring = Keyring(KeyFile(settings.keys_path))
        audit = Audit(assets.partitions, _opener(keyring) if wanted.open else None)
        copies = _Copies(
            audit, _copies(stack, wanted, {each.pair.made.name: each.made_ends for each in (assets, changes)})
        )
        steps = assets.partitions + changes.partitions
        progress = stack.enter_context(Advance("auditing partitions", steps, console=console))
        report = Report()
        claims = _claims(scanner, claim_ends, audit)
        decider = asset_decider(settings, keyring, assets, Verifier)
        for partition in range(assets.partitions):
            held = verify_assets(assets, partition, decider, report, claims.winners)
            audit.look(held)
            copies.look(topics.KEYS.name, partition, held.values)
            progress.step()
        _look_at_policies(audit, changes, policy_decider(keyring, changes), report, copies, progress)
        audit.take(report)
        audit.check_claims(claims, _refusals(assets))
        audit.check_policies()
        audit.check_fingerprints(wanted.before)
        copies.find_strangers()
    return audit


class _Copies:
    """The copies, and the record keys that their topics hold."""

    def __init__(self, audit: Audit, copies: Sequence[_Listed]) -> None:
        self._audit = audit
        self._copies = copies
        self._known: dict[str, set[bytes]] = {name: set() for name in MADE}

    def look(self, topic: str, partition: int, values: Mapping[bytes, bytes]) -> None:
        """Compare with one partition."""
        for each in self._copies:
            compare_copy(self._audit, each.copy, topic, partition, values)
            self._known[topic].update(values)

    def find_strangers(self) -> None:
        """What no topic holds; at the end."""
        for each in self._copies:
            for name in MADE:
                find_strangers(self._audit, each.copy, name, each.keys(name), self._known[name])


def _look_at_policies(
    audit: Audit, changes: Source, keeper: policies.Decider, report: Report, copies: _Copies, progress: Advance
) -> None:
    for partition in range(changes.partitions):
        held = verify_policies(changes, partition, keeper, report)
        audit.look_at_policies(held, partition)
        copies.look(topics.POLICIES.name, partition, {key: encode(record) for key, record in held.records.items()})
        progress.step()


def _opener(keyring: Keyring) -> Callable[[KeyRecord], object]:
    def open_keys(record: KeyRecord) -> object:
        return unwrap_keys(
            keyring.kek(record.organization, record.kek_epoch), keyring.k_fp(record.organization), record
        )

    return open_keys


def _copies(stack: ExitStack, wanted: Wanted, ends: Ends) -> list[_Listed]:
    found = [_snapshot(stack, folder, ends) for folder in wanted.snapshots]
    if wanted.archive is not None:
        reader = stack.enter_context(closing(ArchiveReader(wanted.archive)))
        archive = ArchiveCopy(reader, name_of(wanted.archive), ends)
        found.append(_Listed(archive.copy(), archive.keys))
    return found


def _snapshot(stack: ExitStack, folder: Path, ends: Ends) -> _Listed:
    """A view's folder, as it is now; its follower may be at work."""
    reader = stack.enter_context(SnapshotReader(folder))
    view = stack.enter_context(reader.at_once())
    positions = view.positions()

    def reached(topic: str, partition: int) -> bool:
        return positions.get(topic, {}).get(partition, 0) >= ends[topic][partition]

    def keys(topic: str) -> Iterator[bytes]:
        return (key for key, _, _ in view.scan(topic))

    return _Listed(Copy(f"the view {folder}", view.raw, reached), keys)


def _claim_ends(bootstrap: str) -> dict[int, int]:
    require_topics(bootstrap, [topics.CLAIMS.name])
    return end_offsets(bootstrap, topics.CLAIMS.name)


def _claims(scanner: Scanner, ends: dict[int, int], audit: Audit) -> Claims:
    claims = Claims()
    for partition, end in ends.items():
        for message in scanner.read(topics.CLAIMS.name, partition, end=end) if end else ():
            record_key = message.key() or b""
            if topics.partition_of(topics.CLAIMS, record_key, len(ends)) != partition:
                audit.note("misplaced", record_key, f"a claim stands on partition {partition}")
                continue
            try:
                claims.add(decode(message.value() or b"", Claim))
            except InvalidRecord as error:
                audit.note("different", record_key, str(error))
    return claims


def _refusals(assets: Source) -> Callable[[Claim], bool]:
    """Whether a claim's event has a dead letter."""
    found: dict[int, frozenset[int]] = {}

    def was_refused(claim: Claim) -> bool:
        key = asset_key(claim.organization, claim.asset)
        partition = topics.partition_of(topics.ASSETS, key, assets.partitions)
        if partition not in found:
            found[partition] = assets.refused(partition)
        return claim.event.offset in found[partition]

    return was_refused
