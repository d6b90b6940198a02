"""What a replay was asked to cover, as the command line says it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from keymill.kafka.cluster import offsets_since
from keymill.ops.replaying import Scope
from schemas import ids, topics


class Asked(NamedTuple):
    """Record keys of assets, None for all; where to begin: a time (epoch ms) or an offset, None for the beginning."""

    assets: frozenset[bytes] | None = None
    from_ms: int | None = None
    from_offset: int | None = None

    def whole(self) -> bool:
        """Whether it is everything."""
        return self == Asked()

    def scope(self) -> Scope:
        """For comparing one partition."""
        return Scope(self.assets, self.from_ms is not None or self.from_offset is not None)

    def partitions(self, count: int) -> list[int]:
        """Those of the *count* partitions of the asset topic that hold anything of it."""
        if self.assets is None:
            return list(range(count))
        return sorted({topics.partition_of(topics.ASSETS, key, count) for key in self.assets})

    def policy_partitions(self, count: int) -> list[int]:
        """Those of the *count* partitions of the policy changes that hold anything of what the assets refer to."""
        if self.assets is None:
            return list(range(count))
        organizations = {key.partition(b"/")[0] for key in self.assets}
        return sorted({topics.partition_of(topics.POLICY_CHANGES, name, count) for name in organizations})

    def starts(self, bootstrap: str, ends: Mapping[int, int]) -> dict[int, int]:
        """Where to begin on each partition of the asset topic, which has these *ends*; none for the beginning."""
        if self.from_ms is not None:
            return {**ends, **offsets_since(bootstrap, topics.ASSETS.name, self.from_ms)}
        return {} if self.from_offset is None else dict.fromkeys(ends, self.from_offset)


def asked_assets(given: Sequence[str] | None) -> frozenset[bytes] | None:
    """The record keys of the assets that were named, by themselves or in files; None when none were."""
    if not given:
        return None
    names = [name for each in given for name in (_lines(Path(each)) if Path(each).is_file() else [each])]
    return frozenset(map(_record_key, names))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def _record_key(name: str) -> bytes:
    organization, _, asset = name.partition("/")
    return ids.asset_key(ids.check_organization(organization), ids.check_asset(asset))
