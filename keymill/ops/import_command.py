"""`keymill import`: a library of keys that exist already comes in as asset events."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from keymill.config import ProcessorSettings, load
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.address import bootstrap_of
from keymill.ops.changes import Changes, Plan, application
from keymill.ops.claimed import winners_of
from keymill.ops.importing import read_rows
from keymill.ops.importing_plan import Intake, Library, Present, Sealed, events_of, summary
from keymill.ops.listing import print_json
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.progress import Advance
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key, check_organization, is_key_set
from schemas.records import KeyRecord

DIFFERENT = 1
SHOWN = 50
"""Problems that are shown to people; with --json all are."""
STEP = 500
WHY = "key import"

app = typer.Typer(no_args_is_help=True, help="Bring in what exists already.")
Files = Annotated[list[Path], typer.Argument(help="CSV files: asset, track, kid, key; iv, scheme, checksum")]
Organization = Annotated[str, typer.Option("--organization", help="whose keys they are")]
Apply = Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")]
Partial = Annotated[bool, typer.Option("--partial", help="leave assets with a problem out instead of sending nothing")]


@app.command("csv")
def csv(
    files: Files,
    organization: Organization,
    apply: Apply = False,
    partial: Partial = False,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> int:
    """
    Import keys: check the files, compare them with what is there, and send one event per asset.

    A key is wrapped under the intake KEK before it leaves this process. What is there already is passed over, so a
    run that was killed is simply run again. When a row has a problem, nothing is sent, but with --partial, and with it
    nothing while a row names no asset.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    brokers, began = bootstrap_of(loaded), time.monotonic()
    partitions = {name: topic.partitions for name, topic in require_topics(brokers, _TOPICS).items()}
    library = _read(files, _intake(loaded.keys_path, organization))
    lacking = _present(brokers, organization).missing(library)
    sends = apply and library.may_be_sent(partial)
    with application(brokers, partitions) if sends else nullcontext(Plan()) as changes:
        _send(organization, lacking, changes)
    seconds = time.monotonic() - began
    outcome = {"applied": sends, "seconds": round(seconds, 2), "rows_per_s": round(library.rows / seconds)}
    _show(summary(library, lacking, outcome), as_json)
    return DIFFERENT if library.problems or (lacking and not sends) else 0


_TOPICS = (topics.ASSETS.name, topics.KEYS.name, topics.CLAIMS.name)


def _intake(keys_path: Path, organization: str) -> Intake:
    kms = KeyFile(keys_path)
    k_fp = Keyring(kms).k_fp(check_organization(organization))
    epoch, kek = kms.intake_kek()
    return Intake(organization=organization, k_fp=k_fp, kek=kek, epoch=epoch)


def _read(files: list[Path], intake: Intake) -> Library:
    library = Library(intake)
    with Advance("reading keys", None) as progress:
        for path in files:
            try:
                with path.open(encoding="utf-8-sig", newline="") as text:
                    for row in read_rows(str(path), text, library.problems):
                        library.add(row)
                        progress.step()
            except UnicodeDecodeError:
                raise InvalidRecord(f"{path} is no UTF-8 text: name a CSV file", field="file") from None
    return library


def _present(bootstrap: str, organization: str) -> Present:
    with Scanner(bootstrap) as scanner:
        present = Present(organization, winners_of(scanner, bootstrap))
        ends = end_offsets(bootstrap, topics.KEYS.name)
        prefix = f"{organization}/".encode()
        with Advance("reading what is there, records", sum(ends.values())) as progress:
            for partition, end in ends.items():
                for message in scanner.read(topics.KEYS.name, partition, end=end):
                    progress.step()
                    record_key, value = message.key() or b"", message.value()
                    if value is not None and record_key.startswith(prefix) and is_key_set(record_key):
                        _add(present, value)
    return present


def _add(present: Present, value: bytes) -> None:
    try:
        present.add(decode(value, KeyRecord))
    except InvalidRecord:
        return  # `keymill audit` tells it; here it could hide nothing but a conflict, which the processor finds


def _send(organization: str, lacking: dict[str, list[Sealed]], changes: Changes) -> None:
    with Advance("sending assets", len(lacking)) as progress:
        for event in events_of(organization, lacking, time.time_ns() // 1_000_000):
            key = asset_key(event.organization, event.asset)
            changes.make(Outgoing(topic=topics.ASSETS.name, record_key=key, value=encode(event)), WHY)
            progress.step()
        changes.finish()


def _show(outcome: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    problems = outcome["problems"]
    assert isinstance(problems, list)
    for each in problems[:SHOWN]:
        typer.echo(f"{each['file']}:{each['line']}: {each['field']}: {each['message']} ({each['code']})")
    if len(problems) > SHOWN:
        typer.echo(f"and {len(problems) - SHOWN} more problems, all with --json")
    verb = "sent" if outcome["applied"] else "to send"
    typer.echo(
        f"{outcome['rows']} keys read, {outcome['repeated']} repeated, {outcome['present']} there already: "
        f"{outcome['keys']} {verb} in {outcome['assets']} events, {outcome['left_out']} assets left out, "
        f"{outcome['seconds']} s ({outcome['rows_per_s']} keys/s)"
    )
    if not outcome["applied"]:
        typer.echo("nothing was sent: correct the problems" if problems else "nothing is sent yet: repeat with --apply")
