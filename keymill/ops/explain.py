"""`keymill explain KID`: where a key comes from: key record, asset, policy, and the event that called for it."""

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from keymill.config import ProcessorSettings, load
from keymill.core.folding import DEFAULT_POLICY
from keymill.errors import InvalidRecord, KeymillError, Misconfigured, Reject, UnknownKey
from keymill.kafka.admin import require_topics
from keymill.kafka.scan import headers_of, scan_partition
from keymill.ops.address import bootstrap_of
from keymill.ops.exits import exit_code_of
from keymill.ops.options import Bootstrap, File, Json
from keymill.snapshot.layout import Owner
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads
from schemas import topics
from schemas.framing import decode_event
from schemas.ids import asset_key
from schemas.records import AssetRecord, KeyRecord
from streams.registry import registry_lookup


def explain(
    kid: Annotated[str, typer.Argument(help="KID in any UUID spelling")],
    settings: File = None,
    data: Annotated[Path | None, typer.Option("--data", help="data folder with a view")] = None,
    bootstrap: Bootstrap = None,
    organization: Annotated[str | None, typer.Option("--organization", help="all organizations if absent")] = None,
    as_json: Json = False,
) -> int:
    """
    Print the lineage of a key with its coordinates, from a local view and the log. Never the key.

    What the local view holds is printed in any case; when the log cannot be asked for the event, the exit code says so.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    with SnapshotReader(_view(loaded.data)).open(wait_s=0) as reader, reader.at_once() as view:
        lineage = _lineage(view, _kid(kid), [organization] if organization else _organizations(view))
    code = 0
    try:
        _look_up(loaded, lineage["event"])
    except KeymillError as error:
        lineage["event"]["error"] = str(error)
        code = 0 if isinstance(error, Reject) else exit_code_of(error)
    if as_json:
        typer.echo(msgspec.json.encode(lineage).decode())
    else:
        _show(lineage)
    return code


def _kid(text: str) -> bytes:
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        raise InvalidRecord(f"{text[:64]!r} is no KID: give 32 hex digits, dashes or not", field="kid") from None


def _view(data: Path) -> Path:
    for name in ("gateway", "proxy"):
        if (data / "views" / name).is_dir():
            return data / "views" / name
    raise Misconfigured(f"{data} holds no view: give --data with the folder of a gateway or proxy")


def _organizations(view: Reads) -> list[str]:
    return [credential.organization for credential in view.credentials_by_id("self")]


def _lineage(view: Reads, kid: bytes, organizations: list[str]) -> dict[str, Any]:
    for organization in organizations:
        owner = view.owner(organization, kid)
        if owner is not None:
            return _found(view, kid, organization, owner)
    raise UnknownKey(
        f"KID {uuid.UUID(bytes=kid)} is not in the view; organizations looked at: {', '.join(organizations)}"
    )


def _found(view: Reads, kid: bytes, organization: str, owner: Owner) -> dict[str, Any]:
    record, asset = view.key_record(owner.record_key), view.asset(organization, owner.asset)
    if record is None:
        raise UnknownKey(f"KID {uuid.UUID(bytes=kid)} is indexed, but its key record is gone: rebuild the view")
    asset_place = view.coordinates(topics.KEYS.name, asset_key(organization, owner.asset))
    return {
        "kid": str(uuid.UUID(bytes=kid)),
        "fingerprint": owner.fp.hex(),
        "organization": organization,
        "asset": owner.asset,
        "state": asset.state.value if asset else None,
        "tracks": [f"{track.label}/{track.scheme.value}" for track in record.tracks if track.kid == kid],
        "key_version": record.key_version,
        "root_version": record.root_version,
        "kek_epoch": record.kek_epoch,
        "period": record.period.index if record.period else None,
        "policy": _policy(view, organization, asset),
        "key_record": _place(view.coordinates(topics.KEYS.name, owner.record_key))
        | {"record_key": owner.record_key.decode()},
        "asset_record": _place(asset_place),
        "event": _event_place(record, view.coordinates(topics.KEYS.name, owner.record_key)),
    }


def _policy(view: Reads, organization: str, asset: AssetRecord | None) -> dict[str, Any]:
    policy_id = asset.policy_id if asset else DEFAULT_POLICY
    stored = view.policy(organization, policy_id)
    return {
        "id": policy_id,
        "version": stored.version if stored else 0,
        "name": stored.name if stored else "built-in default",
    }


def _place(place: Any) -> dict[str, Any]:
    return {"topic": topics.KEYS.name, "partition": place.partition, "offset": place.offset} if place else {}


def _event_place(record: KeyRecord, place: Any) -> dict[str, Any]:
    # Asset and key partitions are equal in number and function (design 2), so the event stands on the same partition.
    return {
        "topic": topics.ASSETS.name,
        "generation": record.event.generation,
        "partition": place.partition if place else None,
        "offset": record.event.offset,
        "found": None,
    }


def _look_up(settings: ProcessorSettings, event: dict[str, Any]) -> None:
    """Add to *event* what the log says of it; whatever is raised leaves there what was found until then."""
    bootstrap, topic, offset = bootstrap_of(settings), event["topic"], event["offset"]
    adopted = require_topics(bootstrap, [topic])[topic]
    if adopted.generation != event["generation"]:
        # Offsets started over with the topic: what stands at this one now has nothing to do with the key.
        event |= {"found": False, "error": f"{topic} was created again since: it is generation {adopted.generation}"}
        return
    message = next(iter(scan_partition(bootstrap, topic, event["partition"], start=offset, end=offset + 1)), None)
    event["found"] = message is not None
    if message is None:
        return
    event["recorded"] = _time(message.timestamp()[1])
    told = decode_event(message.value() or b"", headers_of(message), registry_lookup(settings.registry_url))
    event |= {"kind": type(told.body).__name__, "event_id": told.event_id, "event_time": _time(told.event_time)}


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _show(lineage: dict[str, Any]) -> None:
    for name, value in lineage.items():
        if value is not None:
            typer.echo(f"{name:14} {_line(value)}")


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)
    return ", ".join(value) if isinstance(value, list) else str(value)
