"""keymill's own format: `schemas.policy.Policy` in JSON, all of it. Bytes are base64, what is absent is left out."""

from typing import Any, Final

import msgspec

from keymill.core.formats.contract import Format, Imported
from schemas.codec import decode_json
from schemas.policy import Policy

NAME: Final = "native"
_UNPLAYABLE: Final = "can_play is absent: no license is given under this policy"


def read(data: bytes) -> Imported:
    """A policy; raises `InvalidRecord` naming the member."""
    policy = decode_json(data, Policy)
    return Imported(policy=policy, warnings=() if policy.can_play is not None else (_UNPLAYABLE,))


def write(policy: Policy, name: str) -> bytes:
    """The policy; its name is not part of it."""
    return msgspec.json.format(msgspec.json.encode(plain(policy)), indent=2) + b"\n"


def plain(value: Any) -> Any:
    """A record as JSON's own types, without what is absent."""
    return _present(msgspec.to_builtins(value))


FORMAT: Final = Format(name=NAME, read=read, write=write)


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _present(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_present(each) for each in value]
    return value
