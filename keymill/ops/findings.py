"""What an audit has found, by the place where it was found: whoever judges a place again says all that is wrong."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

from keymill.ops.report import MAX_LISTED, Difference

Place = tuple[Hashable, ...]
"""A check and what it was made of; of any shape, as long as no two checks have the same."""


class _Found(NamedTuple):
    counts: Mapping[str, int]
    differences: Sequence[Difference]


class Findings:
    """Every difference that stands now; `counts` by kind has no zeros."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._at: dict[Place, _Found] = {}

    def put(
        self, place: Place, differences: Sequence[Difference] = (), counts: Mapping[str, int] | None = None
    ) -> None:
        """
        Say what is wrong at a place, which replaces what was.

        Args:
            counts: by kind, where there are more than could be named.
        """
        if (old := self._at.pop(place, None)) is not None:
            self.counts -= Counter(old.counts)  # leaves no zeros
        if differences:
            found = _Found(counts or Counter(each.kind for each in differences), tuple(differences))
            self._at[place] = found
            self.counts.update(found.counts)

    def __contains__(self, place: Place) -> bool:
        return place in self._at

    def listed(self) -> list[Difference]:
        """The first thousand."""
        return list(islice(self._all(), MAX_LISTED))

    def _all(self) -> Iterator[Difference]:
        return chain.from_iterable(found.differences for found in self._at.values())
