"""A claim without its key record, and a succession that is half done."""

import msgspec
import pytest

from keymill.kafka.succession import Succession
from keymill.ops.importing_plan import Present
from schemas import topics
from schemas.records import Claim
from schemas.values import Scheme
from tests.builders import at
from tests.unit.test_importing import KID, library, line


@pytest.mark.parametrize(
    "change", [{}, {"fp": b"x" * 16}, {"fp": None}, {"key_version": 2}, {"asset": "other"}], ids=str
)
def test_a_claim_counts_before_its_key_record_is_there(change) -> None:
    """A run that was killed between the two: its own claim is no obstacle, any other is told."""
    gathered = library(line())
    fp = gathered.assets["film"][0].imported.fp
    own = Claim(
        organization="demo", kid=KID, asset="film", key_version=1, label="SD", scheme=Scheme.CBCS, root_version=1,
        fp=fp, event=at(3).position,
    )  # fmt: skip
    found = Present("demo", {("demo", KID): msgspec.structs.replace(own, **change)})
    assert (["film"] if not change else []) == list(found.missing(gathered))
    assert (["kid_taken"] if change else []) == [each.code for each in gathered.problems]


def test_half_of_the_successors_is_no_succession() -> None:
    """All that was replaced must be adopted."""
    keys, policies = topics.KEYS.name, topics.POLICIES.name
    assert not Succession(frozenset({keys, policies}), {keys: "new"}).complete()
    assert Succession(frozenset({keys, policies}), {keys: "new", policies: "new"}).complete()
