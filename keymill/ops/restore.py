"""`keymill restore`: what a backup has and the installation lacks; nothing that is there is changed."""

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keymill.config import Settings, load
from keymill.ops.address import bootstrap_of
from keymill.ops.backup import BackupFile, Identities, Sha256, opened
from keymill.ops.listing import print_json
from keymill.ops.options import Bootstrap, Data, File, Json, KeyFileOption

if TYPE_CHECKING:
    from keymill.ops.restoring_keys import KeyChanges
    from keymill.ops.restoring_topics import TopicChanges

OPEN: Final = 1
"""Exit code: something is to be done that was not applied, or may not be."""


class Part(StrEnum):
    """What of a backup is restored."""

    KEYS = "keys"
    TOPICS = "topics"


def restore(
    file: BackupFile,
    identity: Identities,
    only: Annotated[Part | None, typer.Option("--only", help="one part; both if absent")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="put the backup's records in place of other ones too; never keys")
    ] = False,
    generation: Annotated[
        int, typer.Option(min=0, help="of new topics at least, where topics were lost again since the backup")
    ] = 0,
    replicas: Annotated[int | None, typer.Option("--replicas", help="of topics that are created")] = None,
    sha256: Sha256 = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
    as_json: Json = False,
) -> int:
    """
    Give back what is missing: keys to the key file, topics with their generations, the newest records.

    Keys are only added; a key that is another in the backup is a contradiction, and then nothing is written at all, no
    topic either: the backup may be another installation's.
    """
    from keymill.ops.backup_file import read_backup
    from keymill.ops.recipients import read_identity
    from keymill.ops.restoring_keys import key_changes
    from keymill.ops.restoring_topics import apply_topics, topic_changes

    saved, _ = opened(read_backup(file, sha256), [read_identity(each) for each in identity])
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file, replicas=replicas)
    compared = key_changes(loaded.keys_path, saved, apply=False)
    refused = bool(compared.contradictions)
    keys = compared if refused or only is not Part.TOPICS else None
    topics = None
    if only is not Part.KEYS and not refused:
        topics = topic_changes(bootstrap_of(loaded), saved, overwrite=overwrite, least=generation)
    if apply and not refused:
        if keys is not None:
            keys = key_changes(loaded.keys_path, saved, apply=True)
            refused = bool(keys.contradictions)  # somebody may have made an organization since the plan
        if topics is not None and not refused:
            apply_topics(bootstrap_of(loaded), saved, loaded.replicas, overwrite=overwrite, least=generation)
    _tell(keys, topics, applied=apply and not refused, as_json=as_json)
    work = bool(keys and keys.added) or bool(topics and topics.work)
    return OPEN if refused or (work and not apply) else 0


def _tell(keys: "KeyChanges | None", topics: "TopicChanges | None", *, applied: bool, as_json: bool) -> None:
    if as_json:
        told = {"applied": applied, "keys": keys, "topics": topics}
        print_json(told)
        return
    lines = [*_of_keys(keys), *_of_topics(topics)]
    for line in lines:
        typer.echo(line)
    if keys is not None and keys.contradictions:
        typer.echo(
            "nothing is written: this is another installation's backup, or, if its keys are the right ones, the key "
            "file is to be moved away",
            err=True,
        )
    elif not applied and (bool(keys and keys.added) or bool(topics and topics.work)):
        typer.echo("nothing is written yet: repeat with --apply")
    elif applied:
        typer.echo("restored")


def _of_keys(keys: "KeyChanges | None") -> Iterable[str]:
    if keys is None:
        return
    yield f"key file {keys.file}: " + ("present" if keys.present else "absent")
    yield from (f"  add {name}" for name in keys.added)
    yield from (f"  contradiction: {what}" for what in keys.contradictions)
    if not keys.added and not keys.contradictions:
        yield "  has all that the backup has"


def _of_topics(topics: "TopicChanges | None") -> Iterable[str]:
    if topics is None:
        return
    yield from (f"create {name}" for name in topics.missing)
    yield from (f"{each.topic}: generation {each.generation}, {each.reason}" for each in topics.renewals)
    for each in topics.records:
        yield f"{each.topic}: {'write' if each.written else 'leave'} {each.records} records ({each.fate})"
