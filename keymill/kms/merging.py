"""What of a saved key file the one in use lacks: a pure comparison that never changes or drops a key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keymill.errors import Misconfigured
from keymill.kms.keyfile_format import Content, Kek, Root, check_content, format_of
from keymill.kms.provider import KekState

_LIFE: Final = (KekState.ANNOUNCED, KekState.ACTIVE, KekState.RETIRED)
"""No state goes back to an earlier one."""


@dataclass(frozen=True, slots=True)
class Merged:
    """
    A key file and what is new in it.

    Args:
        content: what is in use and the additions; only what is in use where there is a contradiction.
        added: each addition by name, never the key.
        contradictions: what both name and hold differently; not one may be resolved by a program.
    """

    content: Content
    added: tuple[str, ...]
    contradictions: tuple[str, ...]


def merge(held: Content, saved: Content) -> Merged:
    """
    Add what *saved* has and *held* lacks: organizations, root versions, KEK epochs, intake epochs.

    Every key in *held* stays. The state of an epoch is the further one of the two (announced, active, retired), since
    none ever goes back: so an old backup undoes no rotation, and an old file learns of one. A root with one version
    and two activation times is a contradiction like one with two keys, since an asset's root is chosen by the time.
    """
    findings = _Findings()
    intake = findings.keks("intake KEK", held.intake, saved.intake)
    organizations = dict(held.organizations)
    for name, group in saved.organizations.items():
        own = organizations.get(name)
        if own is None:
            organizations[name] = group
            findings.added.append(f"organization {name}")
        else:
            roots = findings.roots(f"root of {name}", own.roots, group.roots)
            keks = findings.keks(f"KEK of {name}", own.keks, group.keks)
            organizations[name] = msgspec.structs.replace(own, roots=roots, keks=keks)
    merged = msgspec.structs.replace(held, intake=intake, organizations=organizations)
    merged = msgspec.structs.replace(merged, format=format_of(merged))
    findings.check(merged)
    if findings.contradictions:
        return Merged(content=held, added=(), contradictions=tuple(findings.contradictions))
    return Merged(content=merged, added=tuple(findings.added), contradictions=())


class _Findings:
    """What a comparison has come upon."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.contradictions: list[str] = []

    def roots(self, what: str, held: Sequence[Root], saved: Sequence[Root]) -> tuple[Root, ...]:
        """*held* and what it lacks of *saved*, ascending."""
        known = {root.version: root for root in held}
        for root in saved:
            own = known.get(root.version)
            if own is None:
                known[root.version] = root
                self.added.append(f"{what} {root.version}")
            elif (own.key, own.activates) != (root.key, root.activates):
                self.contradictions.append(f"{what} {root.version} is another in the backup")
        return tuple(known[version] for version in sorted(known))

    def keks(self, what: str, held: Sequence[Kek], saved: Sequence[Kek]) -> tuple[Kek, ...]:
        """The same of KEKs, each in the further state."""
        known = {kek.epoch: kek for kek in held}
        for kek in saved:
            own = known.get(kek.epoch)
            if own is None:
                known[kek.epoch] = kek
                self.added.append(f"{what} {kek.epoch}")
            elif own.key != kek.key:
                self.contradictions.append(f"{what} {kek.epoch} is another in the backup")
            elif _LIFE.index(own.state) < _LIFE.index(kek.state):
                known[kek.epoch] = kek
                self.added.append(f"{what} {kek.epoch} is {kek.state.value}")
        return tuple(known[epoch] for epoch in sorted(known))

    def check(self, merged: Content) -> None:
        """Additions that no file can have beside what is there, such as activation times out of order."""
        try:
            check_content(merged, "together with the backup")
        except Misconfigured as error:
            self.contradictions.append(str(error))
