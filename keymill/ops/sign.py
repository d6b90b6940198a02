"""
`keymill topics sign`: records from before there were authenticators get theirs, once; `keymill up` does it by itself.

What is compacted is written again with its authenticator. A log cannot be written again, since the order of its records
decides; its adoption says from which offsets on they must be authenticated. Plan and application are one code.

Whoever signs trusts what is there, so `up` does it once in the life of a data folder, on brokers of its own, and notes
in the folder that it is done: what turns up without an authenticator afterwards is refused for ever.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from confluent_kafka import Message

from keymill import telemetry
from keymill.config import ProcessorSettings, load
from keymill.core import view
from keymill.core.envelope import unwrap_keys
from keymill.core.view import APPLIED, Sequenced, misplaced
from keymill.durable import replace_own
from keymill.errors import InvalidRecord, KeymillError, Misconfigured
from keymill.kafka.admin import describe, end_offsets, require_topics
from keymill.kafka.adoption import read_adoptions, record_adoptions
from keymill.kafka.authentication import install, installed, refusal_of
from keymill.kafka.producer import Outgoing
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.access import following, organizations, prepare_keys
from keymill.ops.address import bootstrap_of
from keymill.ops.changes import Changes, Plan, application
from keymill.ops.groups import require_empty
from keymill.ops.listing import print_json
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.progress import Advance
from keymill.ops.saving import record_key_of
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, KeyRecord, PolicyRecord, TopicAdopted
from schemas.topics import Topic

DIFFERENT: Final = 1
WAIT_S: Final = 60
"""Longer than the session timeout, which a static member stays in the group after its process has ended."""
WHY: Final = "authenticate a record from before"
COMPACTED: Final = (topics.KEYS, topics.POLICIES, topics.ENTITLEMENTS, topics.SERVICES, topics.CREDENTIALS)
LOGS: Final = (topics.CLAIMS, topics.POLICY_CHANGES, topics.REQUESTS, topics.DEAD_LETTERS)
MAX_NAMED: Final = 100
"""Records that are left which are named; all are counted."""

NOTE: Final = "records-signed"
"""File of a data folder: whether what `keymill up` found there is still to be signed. One line."""
log = telemetry.logger("ops.sign")

Written = AssetRecord | KeyRecord | PolicyRecord | Sequenced


class Found(msgspec.Struct, kw_only=True):
    """
    What is found of one topic.

    Args:
        authenticated: record keys, or records of a log, that have an authenticator.
        to_sign: those that get one, or in a log stand below the offset from which on there must be one.
        left: what gets none, since no view took it; the first hundred by name.
    """

    topic: str
    authenticated: int = 0
    to_sign: int = 0
    left_out: int = 0
    left: list[str] = []

    def leave(self, record_key: bytes, why: str) -> None:
        """Count a record that is left as it is."""
        self.left_out += 1
        if len(self.left) < MAX_NAMED:
            self.left.append(f"{record_key.decode('ascii', 'backslashreplace')}: {why}")


def sign(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    newer: Annotated[
        bool, typer.Option("--newer", help="also what older programs wrote after the topics were signed")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    wait_s: Annotated[int, typer.Option("--wait", min=0, help="seconds to wait for the processors to end")] = WAIT_S,
    as_json: Json = False,
) -> int:
    """
    Authenticate what an older release wrote: once, before programs of this one start.

    It trusts what is there: let `keymill audit` of the older release be clean first. The processors must be stopped.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    brokers = bootstrap_of(loaded)
    prepare_keys(brokers, loaded.keys_path)
    found = sign_all(loaded, brokers, newer=newer, apply=apply, wait_s=wait_s)
    if as_json:
        print_json({"topics": found, "applied": apply})
    else:
        _print(found, apply)
    left = any(each.left_out or (each.to_sign and not apply) for each in found)
    return DIFFERENT if left else 0


def sign_all(settings: ProcessorSettings, bootstrap: str, *, newer: bool, apply: bool, wait_s: int) -> list[Found]:
    """
    Plan, or with *apply* authenticate, every topic.

    Raises:
        NotReady: processors are at work.
    """
    adopted = require_topics(bootstrap, [topic.name for topic in (*COMPACTED, *LOGS)])
    keyring = Keyring(KeyFile(settings.keys_path))
    if not apply:
        return list(_topics(bootstrap, adopted, keyring, Plan(), newer=newer, apply=False))
    require_empty(bootstrap, settings.group, wait_s)
    with application(bootstrap, {name: each.partitions for name, each in adopted.items()}) as changes:
        return list(_topics(bootstrap, adopted, keyring, changes, newer=newer, apply=True))


class Signing(StrEnum):
    """What the note of a data folder says."""

    DUE = "due"
    DONE = "done"


def begin_signing(settings: ProcessorSettings, bootstrap: str, *, own: bool) -> None:
    """
    Prepare the keys of a data folder, and note at its first start whether its records are from before authenticators.

    They are when the key file was there and no adoption verifies under it; on our *own* brokers what was adopted stays
    so. Call it before topics are created.
    """
    new = not settings.keys_path.exists()
    prepare_keys(bootstrap, settings.keys_path)
    note = settings.data / NOTE
    if not note.exists():
        adopted = (
            topics.ADOPTIONS.name in describe(bootstrap, [topics.ADOPTIONS.name]) and read_adoptions(bootstrap).held
        )
        _note(note, Signing.DONE if new or adopted else Signing.DUE)
    if own and note.read_text("ascii").strip() == Signing.DUE:
        _sign_adoptions(bootstrap)


def _sign_adoptions(bootstrap: str) -> None:
    """Write adoptions that stand without authenticators again with theirs: else no topic is what it must be."""
    present = describe(bootstrap, [topics.ADOPTIONS.name])
    if not present or read_adoptions(bootstrap).held:
        return
    keys = installed()
    install(None)  # for this one reading
    held = read_adoptions(bootstrap).held
    install(keys)
    record_adoptions(bootstrap, present[topics.ADOPTIONS.name].partitions, held.values())


def finish_signing(settings: ProcessorSettings, bootstrap: str, *, own: bool) -> None:
    """
    Sign what is due, when the brokers are our *own*; a cluster of somebody else's is signed by whoever runs it.

    Raises:
        Misconfigured: it is to be signed first; the message names the command.
        NotReady: processors are at work.
    """
    note = settings.data / NOTE
    if note.read_text("ascii").strip() == Signing.DONE:
        return
    if own:
        found = sign_all(settings, bootstrap, newer=False, apply=True, wait_s=settings.session_timeout_s + WAIT_S)
        signed, left = sum(each.to_sign for each in found), [name for each in found for name in each.left]
        log.warning("records of an earlier release were authenticated", records=signed, left_out=left)
    elif older := organizations(bootstrap, verified=False).keys() - organizations(bootstrap).keys():
        raise Misconfigured(
            f"the records of {', '.join(sorted(older))} are of a release that authenticated none: let its `keymill "
            "audit` be clean, stop its programs, and run once: keymill topics sign --apply "
            f"--bootstrap {bootstrap} --data {settings.data}"
        )
    _note(note, Signing.DONE)


def _note(path: Path, signing: Signing) -> None:
    replace_own(path, f"{signing.value}\n".encode())


def _topics(
    bootstrap: str, adopted: Mapping[str, TopicAdopted], keyring: Keyring, changes: Changes, *, newer: bool,
    apply: bool,
) -> Iterator[Found]:  # fmt: skip
    ends = {topic.name: end_offsets(bootstrap, topic.name) for topic in (*COMPACTED, *LOGS)}
    with Scanner(bootstrap) as scanner, Advance("reading partitions", sum(map(len, ends.values()))) as advance:
        for topic in COMPACTED:
            found = Found(topic=topic.name)
            for partition, end in ends[topic.name].items():
                _sign_partition(scanner, topic, (partition, end, len(ends[topic.name])), keyring, changes, found, newer)
                advance.step()
            changes.finish()
            yield found
        moved = []
        for topic in LOGS:
            found, since = _read_log(scanner, topic, ends[topic.name], adopted[topic.name], advance, newer)
            if found.to_sign:
                moved.append(msgspec.structs.replace(adopted[topic.name], authenticated_from=since))
            yield found
        if moved and apply:
            partitions = describe(bootstrap, [topics.ADOPTIONS.name])[topics.ADOPTIONS.name].partitions
            record_adoptions(bootstrap, partitions, moved)


def _sign_partition(
    scanner: Scanner, topic: Topic, place: tuple[int, int, int], keyring: Keyring, changes: Changes, found: Found,
    newer: bool,
) -> None:  # fmt: skip
    """*place*: partition, its end, and how many partitions the topic has."""
    partition, end, partitions = place
    current: dict[bytes, tuple[Written, bool]] = {}
    for message, reason in scanner.judge(topic.name, partition, end=end):
        key = message.key() or b""
        try:
            if topics.partition_of(topic, key, partitions) != partition:
                raise InvalidRecord("it stands on a wrong partition", field="partition")
            record = _read(topic, key, message.value())
        except InvalidRecord as error:
            if not reason or not _is_past_tombstone(topic, message, current):
                found.leave(key, str(error))
            continue
        held = current.get(key)
        if held is None or (_follows(record, held[0]) and (not reason or newer or not held[1])):
            current[key] = (record, not reason)
    for key, (record, authenticated) in current.items():
        if authenticated:
            found.authenticated += 1
            continue
        try:
            changes.make(Outgoing(topic=topic.name, record_key=key, value=_signed(record, keyring)), WHY)
            found.to_sign += 1
        except KeymillError as error:
            found.leave(key, str(error))


def _is_past_tombstone(topic: Topic, message: Message, current: dict[bytes, tuple[Written, bool]]) -> bool:
    """Take a tombstone by which an older release ended an entitlement."""
    if topic is not topics.ENTITLEMENTS or message.value() is not None:
        return False
    current.pop(message.key() or b"", None)
    return True


def _read(topic: Topic, key: bytes, value: bytes | None) -> Written:
    """The record, as a view takes it; raises `InvalidRecord`."""
    if value is None:
        raise InvalidRecord("a tombstone", field="value")
    kind = topic.records[0] if topic is not topics.KEYS else KeyRecord if is_key_set(key) else AssetRecord
    record = decode(value, kind)
    if isinstance(record, Sequenced):
        if record_key_of(record) != key:
            raise InvalidRecord("a record under the key of another", field="key")
        return record
    assert isinstance(record, AssetRecord | KeyRecord | PolicyRecord)
    if wrong := misplaced(key, record):
        raise InvalidRecord(wrong.reason, field="key")
    return record


def _follows(new: Written, held: Written) -> bool:
    """Whether a view that holds *held* takes *new*."""
    match new, held:
        case KeyRecord(), KeyRecord():
            return view.judge_key_record(new, held, {}) is APPLIED
        case AssetRecord(), AssetRecord():
            return view.judge_asset_record(new, held) is APPLIED
        case PolicyRecord(), PolicyRecord():
            return view.judge_policy_record(new, held) is APPLIED
    return isinstance(new, Sequenced) and isinstance(held, Sequenced) and view.follows(new, held)


def _signed(record: Written, keyring: Keyring) -> bytes:
    """The bytes that get an authenticator; raises `KeymillError` for keys that do not open."""
    if isinstance(record, KeyRecord):
        unwrap_keys(keyring.kek(record.organization, record.kek_epoch), keyring.k_fp(record.organization), record)
    else:
        keyring.record_mac_key(record.organization, 1)  # said here of this record, and not while a batch is written
    return encode(following(record) if isinstance(record, Sequenced) else record)


def _read_log(
    scanner: Scanner, topic: Topic, ends: Mapping[int, int], adopted: TopicAdopted, advance: Advance, newer: bool
) -> tuple[Found, tuple[int, ...]]:
    """What stands in a log, and behind which offsets nothing is unauthenticated."""
    found, since = Found(topic=topic.name), list(adopted.authenticated_from or (0,) * adopted.partitions)
    may_move = newer or not adopted.authenticated_from
    for partition, end in ends.items():
        for message in scanner.raw(topic.name, partition, end=end):
            offset = message.offset() or 0
            if not refusal_of(message, topic.name):
                found.authenticated += 1
            elif may_move:
                found.to_sign += 1
                since[partition] = max(since[partition], offset + 1)
            else:
                found.leave(message.key() or b"", f"partition {partition}, offset {offset}: written after the signing")
        advance.step()
    return found, tuple(since)


def _print(found: list[Found], applied: bool) -> None:
    for each in found:
        counts = f"{each.authenticated} authenticated, {each.to_sign} to sign, {each.left_out} left out"
        typer.echo(f"{each.topic}: {counts}")
        for name in each.left:
            typer.echo(f"  left out: {name}")
    if any(each.to_sign for each in found):
        typer.echo("signed" if applied else "nothing is written yet: repeat with --apply")
