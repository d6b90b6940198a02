"""
Rotation in a key file: KEK epochs are announced, activated and retired, roots announced. Nothing is ever taken out.

Every change is made under the file's lock and replaces it whole; asked for twice it is made once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from keymill.core.envelope import KEK_SIZE
from keymill.errors import Conflict, InvalidRecord, UnknownKey
from keymill.kms.keyfile_format import (
    ROOT_SIZE,
    Content,
    Group,
    Kek,
    Root,
    draw_key,
    locked,
    read_file,
    replace_file,
)
from keymill.kms.provider import KekState

MIN_AHEAD_MS: Final = 3_600_000
"""An hour: every processor must know a root before the first record that pins it, whatever its clock says."""

Change = Callable[[Group], Group]


def add_kek(path: Path, organization: str) -> int:
    """Announce the next KEK epoch of an organization and return it; one that is announced already is that one."""

    def change(group: Group) -> Group:
        last = group.keks[-1]
        if last.state is KekState.ANNOUNCED:
            return group
        fresh = Kek(epoch=last.epoch + 1, key=draw_key(KEK_SIZE), state=KekState.ANNOUNCED)
        return msgspec.structs.replace(group, keks=(*group.keks, fresh))

    return _change(path, organization, change).keks[-1].epoch


def activate_kek(path: Path, organization: str, epoch: int) -> None:
    """
    Have an announced epoch wrap from now on; writers follow within a second.

    Raises:
        UnknownKey: there is no such epoch.
        Conflict: it is retired.
    """

    def change(group: Group) -> Group:
        state = _state(organization, group, epoch)
        if state is KekState.RETIRED:
            raise Conflict(f"KEK epoch {epoch} of {organization} is retired; it never wraps again", field="epoch")
        return _marked(group, KekState.ACTIVE, {epoch})

    _change(path, organization, change)


def retire_keks(path: Path, organization: str, *, below: int) -> None:
    """
    Hand the epochs below one that wraps to proxies no longer; they open what is old for ever.

    Raises:
        UnknownKey: there is no epoch *below*.
        Conflict: it does not wrap, so that a lower one does.
    """

    def change(group: Group) -> Group:
        if _state(organization, group, below) is not KekState.ACTIVE:
            raise Conflict(f"KEK epoch {below} of {organization} does not wrap: activate it first", field="epoch")
        return _marked(group, KekState.RETIRED, {kek.epoch for kek in group.keks if kek.epoch < below})

    _change(path, organization, change)


def add_intake_kek(path: Path) -> int:
    """
    Add an intake KEK, under which imported keys travel from now on, and return its epoch.

    The former ones stay as long as the events that they wrapped: for ever.
    """
    with locked(path):
        content, _ = read_file(path)
        epoch = content.intake[-1].epoch + 1
        intake = (*content.intake, Kek(epoch=epoch, key=draw_key(KEK_SIZE)))
        replace_file(path, msgspec.structs.replace(content, intake=intake))
        return epoch


def add_root(path: Path, organization: str, activates: int, *, now_ms: int) -> int:
    """
    Announce the next root version of an organization, which holds from *activates* (epoch ms) on; returns it.

    Raises:
        InvalidRecord: *activates* is less than an hour ahead of *now_ms*.
        Conflict: a root is announced already, for another time.
    """
    if activates < now_ms + MIN_AHEAD_MS:
        message = "a root is announced at least one hour ahead, so that every processor knows it when it activates"
        raise InvalidRecord(message, field="activates")

    def change(group: Group) -> Group:
        last = group.roots[-1]
        if last.activates == activates:
            return group
        if last.activates > now_ms:
            message = f"root version {last.version} of {organization} is announced already and not active yet"
            raise Conflict(message, field="activates")
        fresh = Root(version=last.version + 1, activates=activates, key=draw_key(ROOT_SIZE))
        return msgspec.structs.replace(group, roots=(*group.roots, fresh))

    return _change(path, organization, change).roots[-1].version


def _state(organization: str, group: Group, epoch: int) -> KekState:
    for kek in group.keks:
        if kek.epoch == epoch:
            return kek.state
    raise UnknownKey(f"organization {organization} has no KEK epoch {epoch}", field="epoch")


def _marked(group: Group, state: KekState, epochs: set[int]) -> Group:
    keks = tuple(msgspec.structs.replace(kek, state=state) if kek.epoch in epochs else kek for kek in group.keks)
    return msgspec.structs.replace(group, keks=keks)


def _change(path: Path, organization: str, change: Change) -> Group:
    with locked(path):
        content, _ = read_file(path)
        group = content.organizations.get(organization)
        if group is None:
            message = f"organization {organization} has no keys: run `keymill org create {organization}`"
            raise UnknownKey(message, field="organization")
        changed = change(group)
        if changed != group:
            replace_file(path, _with(content, organization, changed))
        return changed


def _with(content: Content, organization: str, group: Group) -> Content:
    return msgspec.structs.replace(content, organizations={**content.organizations, organization: group})
