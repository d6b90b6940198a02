"""What a format of policy documents is."""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.policy import Policy
from schemas.values import Record


class Imported(Record, frozen=True, kw_only=True):
    """A policy read from a document; its name where the document has one. `warnings` are for a person."""

    policy: Policy
    name: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """
    One format.

    Args:
        read: a document's bytes to what it says; raises `InvalidRecord`, naming the member in the document's words.
        write: a policy and its name to the document that says most of it; what the format cannot hold is left out.
    """

    name: str
    read: Callable[[bytes], Imported]
    write: Callable[[Policy, str], bytes]
