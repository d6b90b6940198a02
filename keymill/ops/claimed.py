"""Who has which KID, as the claims log says: read whole, the first claim of each KID that was not released."""

from collections.abc import Iterator

from keymill.core.claim_log import folded, winner
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import Scanner
from schemas import topics
from schemas.codec import decode
from schemas.ids import claim_key
from schemas.records import Claim


def winners_of(scanner: Scanner, bootstrap: str) -> dict[tuple[str, bytes], Claim]:
    """The claim that won, by organization and KID."""
    standing: dict[tuple[str, bytes], Claim] = {}
    for claim in claims_in(scanner, bootstrap):
        kid = claim.organization, claim.kid
        stands = folded(standing.get(kid), claim)
        if stands is not None:
            standing[kid] = stands
    return {kid: won for kid, stands in standing.items() if (won := winner(stands)) is not None}


def claims_in(scanner: Scanner, bootstrap: str) -> Iterator[Claim]:
    """Every record of the log, a KID's in order. What cannot be read, or stands under another key, is left out."""
    for partition, end in end_offsets(bootstrap, topics.CLAIMS.name).items():
        for message in scanner.read(topics.CLAIMS.name, partition, end=end):
            claim = _claim(message.key(), message.value())
            if claim is not None:
                yield claim


def _claim(record_key: bytes | None, value: bytes | None) -> Claim | None:
    try:
        claim = decode(value or b"", Claim)
    except InvalidRecord:
        return None
    return claim if record_key == claim_key(claim.organization, claim.kid) else None
