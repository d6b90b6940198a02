"""Schemas of Confluent-framed asset events, from a schema registry: fetched once per id, kept for ever."""

import json
import urllib.error
import urllib.request
from functools import lru_cache
from typing import Final

from keymill.errors import Misconfigured, Unavailable, UnknownKey
from schemas.framing import Registry

TIMEOUT_S: Final = 5.0
MAX_SCHEMAS: Final = 1024
"""An ingest system has a handful; the bound keeps hostile ids from filling memory."""


def registry_lookup(url: str) -> Registry | None:
    """A look-up by schema id at the registry of that base URL; None when no registry is configured."""
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise Misconfigured("registry_url must start with http:// or https://")
    base = url.rstrip("/")

    @lru_cache(maxsize=MAX_SCHEMAS)
    def lookup(schema_id: int) -> str:
        try:
            with urllib.request.urlopen(f"{base}/schemas/ids/{schema_id}", timeout=TIMEOUT_S) as answer:  # noqa: S310 the settings' URL
                return str(json.load(answer)["schema"])
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise UnknownKey(f"the schema registry has no schema {schema_id}", field="value") from None
            raise Unavailable(f"the schema registry answers {error.code}") from None
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable(f"the schema registry does not answer: {type(error).__name__}") from None

    return lookup
