"""
What the log of claims says of one KID: its first claim has won, until that claim is released; then the next one.

A release is a claim of nobody that names the claim it ends in every other field, so whoever reads the log comes to the
same winner, and a program that knows of no releases goes on refusing the KID, which is safe. `keymill.ops.orphaned`
decides when a claim may be released.
"""

from typing import Final

import msgspec

from schemas.records import Claim

NOBODY: Final = ""
"""No asset has this id."""


def release_of(claim: Claim) -> Claim:
    """The record that ends *claim*: it stands behind it, under its record key."""
    return msgspec.structs.replace(claim, asset=NOBODY)


def is_release(claim: Claim) -> bool:
    """Whether a record of the log ends a claim, and makes none."""
    return claim.asset == NOBODY


def folded(held: Claim | None, new: Claim) -> Claim | None:
    """
    What stands for a KID after one more record of its log; *held* itself where that changes nothing.

    A release stands where a claim stood, until somebody claims the KID again.
    """
    if held is None or is_release(held):
        return held if is_release(new) else new
    return new if new == release_of(held) else held


def winner(held: Claim | None) -> Claim | None:
    """Who has the KID, of what stands for it."""
    return None if held is None or is_release(held) else held
