"""The body of a Widevine request: the challenge as it is, or the Azure document's message around it."""

from typing import Final

from keymill.core.formats.azure_widevine import WidevineMessage, read_message
from keymill.proxy.request import RawRequest

_JSON: Final = "application/json"


def is_json(content_type: str) -> bool:
    """Whether a Content-Type, with or without parameters, says JSON."""
    return content_type.partition(";")[0].strip().lower() == _JSON


def read_widevine(raw: RawRequest) -> tuple[bytes, WidevineMessage | None]:
    """
    The challenge, empty where there is none, and with `application/json` the message that carried it.

    Raises:
        InvalidRecord: the message is not the document's; its member is named.
    """
    if not raw.body or not is_json(raw.content_type):
        return raw.body, None
    message = read_message(raw.body)
    return message.payload or b"", message
