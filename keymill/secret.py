"""Bytes that must not be printed, pickled, hashed, encoded or compared in variable time."""

import hmac
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Secret:
    """
    Key bytes in memory.

    `reveal()` is the one way out, and a test lists the modules that may call it. Python cannot wipe memory,
    so the protection is a short life and no accidental copy into a log, an error or a file.
    """

    __slots__ = ("_keyed", "_value")

    def __init__(self, value: bytes) -> None:
        self._value = value
        self._keyed: dict[Callable[[bytes], Any], Any] | None = None

    def reveal(self) -> bytes:
        """Return the clear bytes."""
        return self._value

    def keyed(self, make: Callable[[bytes], T]) -> T:
        """Return `make(clear bytes)`, made once: a MAC or cipher object, whose set-up costs more than its use."""
        if self._keyed is None:
            self._keyed = {}
        made: T | None = self._keyed.get(make)
        if made is None:
            made = self._keyed.setdefault(make, make(self._value))
        return made

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")

    def __bytes__(self) -> NoReturn:
        raise TypeError("a Secret has no bytes(): call reveal() where that is allowed")
