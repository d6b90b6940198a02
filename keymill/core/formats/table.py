"""The formats of policy documents by name, and the two ways through them."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from keymill.core.formats import azure_widevine, native, naver
from keymill.core.formats.contract import Format
from keymill.errors import InvalidRecord, Reject
from schemas.policy import Policy
from schemas.values import Record

FORMATS: Final = {each.name: each for each in (native.FORMAT, azure_widevine.FORMAT, naver.FORMAT)}
_DEFAULTS: Final = dict.fromkeys(("can_play", "can_persist", "can_renew"), False) | dict.fromkeys(
    ("license_duration_s", "rental_duration_s", "playback_duration_s"), 0
)
"""What a stored policy means by absence: no, and unlimited."""


def format_of(name: str) -> Format:
    """The format of that name; raises `InvalidRecord`."""
    if name not in FORMATS:
        raise InvalidRecord(f"format must be one of {', '.join(FORMATS)}", field="format")
    return FORMATS[name]


def export_policy(name: str, policy: Policy, title: str) -> bytes:
    """
    A policy as a document of that format: the one that it was imported from, or one that says all of it.

    Raises:
        Reject: the format cannot hold it; `field` is the first member that it cannot hold.
    """
    to = format_of(name)
    if policy.source is not None and policy.source.format == name:
        document = policy.source.document.encode()
        if _held(to, document, policy) is None:
            return document
    document = to.write(policy, title)
    if (member := _held(to, document, policy)) is not None:
        raise Reject(f"{name} cannot hold {member} of this policy", field=member, code="not_expressible")
    return document


def lost_member(policy: Policy, held: Policy) -> str | None:
    """The first member of a stored policy that another one does not hold; what is absent has its documented default."""
    return _difference(_settled(policy), _settled(held), "")


def _held(to: Format, document: bytes, policy: Policy) -> str | None:
    try:
        return lost_member(policy, to.read(document).policy)
    except InvalidRecord as refusal:
        return refusal.field


def _settled(policy: Policy) -> Policy:
    defaults = {name: value for name, value in _DEFAULTS.items() if getattr(policy, name) is None}
    return msgspec.structs.replace(policy, source=None, **defaults)


def _difference(one: Any, other: Any, path: str) -> str | None:
    """The first member, depth first, in which two values differ; a record without any member is as good as none."""
    if one == other or (_absent(one) and _absent(other)):
        return None
    kind = next((type(each) for each in (one, other) if isinstance(each, Record)), None)
    if kind is not None:
        return _first(
            _difference(getattr(one, name, None), getattr(other, name, None), f"{path}.{name}" if path else name)
            for name in kind.__struct_fields__
        )
    if isinstance(one, tuple) and isinstance(other, tuple):
        if set(one) == set(other):
            return None
        if len(one) == len(other) and isinstance(one[0], Record):
            return _first(_difference(a, b, f"{path}.{a.label}") for a, b in zip(one, other, strict=True))
    return path


def _first(members: Iterable[str | None]) -> str | None:
    return next((member for member in members if member is not None), None)


def _absent(value: Any) -> bool:
    if isinstance(value, Record):
        return all(getattr(value, name) is None for name in value.__struct_fields__)
    return value is None
