"""
An audit: every log, every topic made of it, and the copies. A whole pass reads each once, partition by partition.

What a pass has read may be kept; a later look then reads and judges only what came since.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from confluent_kafka import Message
from rich.console import Console

from keymill.config import ProcessorSettings
from keymill.core.envelope import unwrap_keys
from keymill.errors import Corrupt, Retry
from keymill.kafka.admin import read_adoptions, require_topics
from keymill.kafka.latest import Unreadable
from keymill.kafka.scan import Refused, Scanner
from keymill.kafka.status_topic import read_status
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import source
from keymill.ops.audit_access import Access, forged
from keymill.ops.audit_copies import Copies, OpenArchive
from keymill.ops.audit_following import Looked
from keymill.ops.audit_logs import NAMES, Came, Ends, Logs, take_claim
from keymill.ops.auditing import NONE, Audit, Open
from keymill.ops.auditing_assets import AssetPartition, News
from keymill.ops.ledger import Ledger
from keymill.ops.progress import Advance
from keymill.ops.replay_partitions import asset_decider, policy_decider, verify_policies
from keymill.ops.replaying_policies import HeldPolicies
from keymill.ops.report import Report
from keymill.ops.verifying import Verifier
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key
from schemas.records import Claim, KeyRecord
from schemas.topics import Topic

KEYS, POLICIES = topics.KEYS.name, topics.POLICIES.name
Policies = tuple[HeldPolicies, Report]
"""A partition of the policy topic, and what replaying its changes found."""


class Wanted(NamedTuple):
    """What is compared beside the topics: a ledger of before, views, an archive; and whether keys are unwrapped."""

    before: Ledger | None = None
    snapshots: tuple[Path, ...] = ()
    archive: OpenArchive | None = None
    open: bool = True


def audit_once(settings: ProcessorSettings, bootstrap: str, wanted: Wanted, console: Console) -> Audit:
    """Everything once. Raises what reading the topics raises."""
    with Scanner(bootstrap) as scanner:
        return whole_pass(scanner, settings, bootstrap, wanted, console, keep=False).audit


class Follower:
    """
    Audits again and again over one connection, and keeps what was read between two whole passes.

    A context manager.
    """

    def __init__(self, settings: ProcessorSettings, bootstrap: str, wanted: Wanted, console: Console) -> None:
        self._settings = settings
        self._bootstrap = bootstrap
        self._wanted = wanted
        self._console = console
        self._scanner = Scanner(bootstrap)
        self._found: Pass | None = None

    def look(self, whole: bool) -> Looked:
        """One audit: of everything if asked for, or if nothing else can be trusted."""
        found = None if whole else self._found
        came = None if found is None else read_again(found, self._bootstrap, self._settings.group)
        self._found = None  # until it is judged; and no two stand in memory
        if found is None or came is None:
            found = None
            self._found = whole_pass(
                self._scanner, self._settings, self._bootstrap, self._wanted, self._console, keep=True
            )
            return Looked(self._found.audit, whole=True)
        judge_again(found, came)
        self._found = found
        found.copies.look_again(found.audit, found.logs.ends.of, found.value)
        return Looked(found.audit, whole=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scanner.close()


class Pass:
    """
    What a whole pass has read and found, and every look since.

    Args:
        logs: at their beginning.
    """

    def __init__(self, logs: Logs, settings: ProcessorSettings, wanted: Wanted) -> None:
        keyring = Keyring(KeyFile(settings.keys_path))
        assets, changes = logs.source(source.ASSETS), logs.source(source.POLICIES)
        self.audit = Audit(logs.partitions, _opener(keyring) if wanted.open else None, wanted.before)
        self._access = Access()
        self.copies = Copies(wanted.snapshots, wanted.archive)
        self.logs = logs
        self._decider = asset_decider(settings, keyring, assets, Verifier)
        self._keeper = policy_decider(keyring, changes)
        self._assets = [AssetPartition(number, assets.adopted.generation) for number in range(logs.partitions)]
        self._policies = [HeldPolicies() for _ in range(logs.partitions)]
        self._numbers = [NONE] * logs.partitions

    def claims(self, came: Iterable[tuple[int, Message]]) -> bool:
        """Take claims with their partitions; whether a KID got a winner."""
        partitions = len(self.logs.ends.of[topics.CLAIMS.name])
        for partition, message in came:
            take_claim(self.audit, partition, message, partitions)
        return bool(self.audit.claims.new)

    def access(self, came: Iterable[tuple[Topic, int, Message]]) -> None:
        """Take records that say who may ask, with their topics and partitions."""
        for topic, partition, message in came:
            self._access.take(self.audit, topic, partition, len(self.logs.ends.of[topic.name]), message)

    def assets(self, partition: int, came: Came, *, claims: bool) -> Mapping[bytes, bytes | None]:
        """Judge what came; returns the records that are others now, by record key."""
        news = News(came.made, came.refused, came.events, claims, came.done)
        return self._assets[partition].step(news, self.audit, self._decider, self.audit.claims.winners)

    def read_policies(self, partition: int) -> Policies:
        """Replay a partition of the policy changes, whole: it is small."""
        report, done = Report(), self.logs.done(topics.POLICY_CHANGES.name, partition)
        changes = self.logs.source(source.POLICIES)
        return verify_policies(changes, partition, self._keeper, report, done=done), report

    def policies(self, partition: int, came: Policies) -> Mapping[bytes, bytes | None]:
        """Take what was read; returns what the partition held or holds, by record key."""
        before, (held, report) = self._policies[partition], came
        self._numbers[partition] = self.audit.judged(("changes", partition), report, self._numbers[partition])
        self.audit.exchange_policies(partition, before, held)
        self._policies[partition] = held
        return {key: self.value(POLICIES, partition, key) for key in before.records.keys() | held.records.keys()}

    def value(self, topic: str, partition: int, record_key: bytes) -> bytes | None:
        """What a topic holds, as far as it was read."""
        if topic == KEYS:
            return self._assets[partition].held().get(record_key)
        record = self._policies[partition].records.get(record_key)
        return None if record is None else encode(record)

    def finish(self) -> None:
        """Hold everything against each other, at the end of a look."""
        self.audit.open_again()
        self.audit.check(self._accepted)
        self.audit.batches_lost(self.logs.lost())

    def let_go(self, partition: int) -> None:
        """Forget what only another look would need."""
        claims = self.audit.claims.winners.values()
        self._assets[partition].let_go({asset_key(each.organization, each.asset) for each in claims})

    def _accepted(self, claim: Claim) -> bool:
        key = asset_key(claim.organization, claim.asset)
        return self._assets[topics.partition_of(topics.ASSETS, key, self.logs.partitions)].accepted(claim)


def whole_pass(
    scanner: Scanner, settings: ProcessorSettings, bootstrap: str, wanted: Wanted, console: Console, *, keep: bool
) -> Pass:
    """Read and judge everything from nothing. Raises what reading the topics raises."""
    adopted = require_topics(bootstrap, NAMES)
    scanner.standing.clear()
    logs = Logs(scanner, adopted, Ends.take(bootstrap, settings.group))
    found = Pass(logs, settings, wanted)
    copies, audit, ends = found.copies, found.audit, logs.ends.of
    with ExitStack() as stack:
        copies.open(stack, ends)
        progress = stack.enter_context(Advance("auditing partitions", logs.partitions, console=console))
        claims = found.claims(logs.claims())
        found.access(logs.access())
        for partition in range(logs.partitions):
            came = logs.came(partition)
            copies.look(audit, KEYS, partition, found.assets(partition, came, claims=claims))
            copies.look(audit, POLICIES, partition, found.policies(partition, found.read_policies(partition)))
            if not keep:
                found.let_go(partition)
            progress.step()
        found.finish()
        found.audit.passed_over(unreadable_records(bootstrap))
        forged(audit, scanner.standing.values(), time.time_ns() // 1_000_000)
        copies.find_strangers(audit, ends)
    return found


class _News(NamedTuple):
    """What came since the last look: on each partition, and the policies that must be replayed."""

    claims: list[tuple[int, Message]]
    partitions: list[Came]
    policies: dict[int, Policies]
    access: list[tuple[Topic, int, Message]]
    unreadable: tuple[Unreadable, ...]
    forged: list[Refused]


def unreadable_records(bootstrap: str) -> tuple[Unreadable, ...]:
    """What nobody can read on the topics that programs read whole."""
    return (*read_adoptions(bootstrap).unreadable, *read_status(bootstrap).unreadable)


def read_again(found: Pass, bootstrap: str, group: str) -> _News | None:
    """
    Read what came since the last look.

    Returns:
        None when the topics are not those that were read, end before, or begin later: only a whole pass can tell then.
    """
    logs, ends = found.logs, Ends.take(bootstrap, group)
    if not logs.follows(ends):
        return None
    mark = logs.mark()
    logs.ends = ends
    try:
        claims, came = list(logs.claims()), [logs.came(partition) for partition in range(logs.partitions)]
        policies = {number: found.read_policies(number) for number, each in enumerate(came) if each.policies}
        access, standing = list(logs.access()), list(logs.scanner.standing.values())
        return _News(claims, came, policies, access, unreadable_records(bootstrap), standing)
    except Corrupt:
        return None
    except Retry:
        logs.reset(mark)
        raise


def judge_again(found: Pass, news: _News) -> None:
    """Judge it; after an error *found* is of no use any more."""
    claims = found.claims(news.claims)
    for partition, each in enumerate(news.partitions):
        found.copies.changed(KEYS, partition, found.assets(partition, each, claims=claims))
    for partition, policies in news.policies.items():
        found.copies.changed(POLICIES, partition, found.policies(partition, policies))
    found.finish()
    found.access(news.access)
    found.audit.passed_over(news.unreadable)
    forged(found.audit, news.forged, time.time_ns() // 1_000_000)


def _opener(keyring: Keyring) -> Open:
    def open_keys(record: KeyRecord) -> object:
        return unwrap_keys(
            keyring.kek(record.organization, record.kek_epoch), keyring.k_fp(record.organization), record
        )

    return open_keys
