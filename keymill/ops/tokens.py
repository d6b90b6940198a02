"""`keymill token issue` and `keymill token-key add|list|retire`: player tokens, and the keys that verify them."""

import time
import uuid
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final

import jwt
import msgspec
import typer

from keymill.config import Settings, load
from keymill.errors import Conflict, Misconfigured, UnknownKey
from keymill.ops import access
from keymill.ops.address import bootstrap_of
from keymill.ops.credentials import existing
from keymill.ops.listing import print_listing, print_result
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.token_keys import PublicKey, algorithm_of, key_id_of, pem_of, read_public_key, signing_key
from schemas import ids
from schemas.access import Credential, Service, TokenKey
from schemas.values import TRACK_TYPES, DrmSystem, check_label

token = typer.Typer(help="Player tokens.", no_args_is_help=True)
token_key = typer.Typer(help="Keys that verify an organization's player tokens.", no_args_is_help=True)

Organization = Annotated[str, typer.Option("--organization", help="organization id")]
COLUMNS: Final = ("id", "algorithm", "label", "retired")


@token.command("issue")
def issue(
    organization: Organization,
    asset: Annotated[str | None, typer.Option("--asset", help="asset that may be played")] = None,
    product: Annotated[str | None, typer.Option("--product", help="product whose assets may be played")] = None,
    user: Annotated[str | None, typer.Option("--user", help="who plays")] = None,
    tracks: Annotated[str | None, typer.Option("--tracks", help="labels, such as SD,AUDIO; all if absent")] = None,
    max_track: Annotated[
        str | None, typer.Option("--max-track", help=f"highest track type: {', '.join(TRACK_TYPES)}; AUDIO always")
    ] = None,
    expires_in: Annotated[int, typer.Option("--expires-in", help="seconds until it expires; may be negative")] = 3600,
    not_before: Annotated[int | None, typer.Option("--not-before", help="seconds until it holds")] = None,
    single_use: Annotated[bool, typer.Option("--single-use", help="good for one license, per proxy")] = False,
    server_side: Annotated[bool, typer.Option("--server-side", help="its bearer may loosen policies")] = False,
    ip: Annotated[str | None, typer.Option("--ip", help="address it may be used from")] = None,
    settings: File = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Print a player token on stdout, alone on its line."""
    if asset is None and product is None:
        raise typer.BadParameter("name --asset or --product")
    if max_track not in (None, *TRACK_TYPES):
        raise typer.BadParameter(f"--max-track must be one of {', '.join(TRACK_TYPES)}")
    now = int(time.time())
    claims: dict[str, Any] = {
        "organization": ids.check_organization(organization),
        "asset": asset and ids.check_asset(asset),
        "product": product and ids.check_name(product, "product"),
        "sub": user and ids.check_name(user, "user"),
        "tracks": tracks and [check_label(label, "tracks") for label in tracks.split(",")],
        "max_track": max_track,
        "server_side": server_side or None,
        "iat": now,
        "nbf": None if not_before is None else now + not_before,
        "exp": now + expires_in,
        "jti": uuid.uuid4().hex if single_use else None,
        "ip": ip and _address(ip),
    }
    path, key = signing_key(load(Settings, file=settings, data=data).data, organization)
    if key is None:
        raise Misconfigured(f"{path} is missing: `keymill up` makes it, or sign tokens with a key of your own")
    named = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": key_id_of(key.public_key())}
    signed = jwt.encode(named, key, algorithm=algorithm_of(key.public_key()), headers=headers)
    print_result({"token": signed, "key_id": headers["kid"], "claims": named}, text=signed, as_json=as_json)


@token_key.command("add")
def add(
    organization: Organization,
    public: Annotated[Path, typer.Option("--public", help="PEM file: Ed25519 or P-256 public key")],
    label: Annotated[str, typer.Option("--label", help="what it is for")] = "",
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Let a key verify the organization's tokens; prints its id, which goes into the tokens' `kid` header."""
    record = credential_of(organization, read_public_key(public), label=label, created=_now_ms())
    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    held = existing(brokers, organization).get(record.credential)
    if held is not None and held.revoked:
        raise Conflict(f"key {record.credential} was retired: make another one", field="public")
    if held is None:
        access.publish(brokers, [record])
    print_result({"id": record.credential, "changed": held is None}, text=record.credential, as_json=as_json)


@token_key.command("list")
def list_keys(
    organization: Organization,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show the organization's token keys."""
    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    found = existing(brokers, organization).values()
    rows = [
        {
            "id": record.credential,
            "algorithm": record.body.algorithm,
            "label": record.label,
            "created": record.created,
            "retired": record.revoked,
        }
        for record in found
        if isinstance(record.body, TokenKey)
    ]
    print_listing(COLUMNS, rows, as_json=as_json)


@token_key.command("retire")
def retire(
    organization: Organization,
    key_id: Annotated[str, typer.Argument(help="key id, as `list` shows it")],
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Take a key out of use: from now on its tokens are refused."""
    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    record = existing(brokers, organization).get(key_id)
    if record is None or not isinstance(record.body, TokenKey):
        raise UnknownKey(f"{organization} has no token key {key_id}: see `keymill token-key list`")
    if not record.revoked:
        access.publish(brokers, [msgspec.structs.replace(record, revoked=True)])
    print_result({"id": key_id, "retired": True, "changed": not record.revoked}, text=key_id, as_json=as_json)


def ensure_token_key(data: Path, bootstrap: str, organization: str) -> str:
    """
    The organization's own signing key in the data folder, and its public half among the credentials.

    Made on first use; one that was retired stays retired.

    Returns:
        The key id.
    """
    _, key = signing_key(data, organization, make=True)
    assert key is not None
    record = credential_of(organization, key.public_key(), label="keymill token issue", created=_now_ms())
    if record.credential not in access.credentials(bootstrap, organization):
        access.publish(bootstrap, [record])
    return record.credential


def put_service(bootstrap: str, organization: str, name: str = "demo", version: str = "1.0") -> None:
    """The ClearKey service configuration that /getlicense names; nothing is published when it is there already."""
    if access.service(bootstrap, organization, name, version) is None:
        wanted = Service(organization=organization, service=name, version=version, drm_system=DrmSystem.CLEARKEY)
        access.publish(bootstrap, [wanted])


def credential_of(organization: str, public: PublicKey, *, label: str, created: int) -> Credential:
    """The credential that lets a public key verify tokens."""
    return Credential(
        organization=ids.check_organization(organization),
        credential=key_id_of(public),
        revoked=False,
        created=created,
        label=label,
        body=TokenKey(algorithm=algorithm_of(public), public_pem=pem_of(public)),
    )


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise typer.BadParameter("--ip must be an IPv4 or IPv6 address") from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
