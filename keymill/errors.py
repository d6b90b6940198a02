"""
Every error that keymill raises, each with its fate.

    KeymillError                 never raised itself
    ├── Reject                   the input can never succeed: dead letter, 4xx
    │   ├── InvalidRecord        it breaks its format; `field` names where
    │   ├── Conflict             it contradicts a choice that was made before
    │   └── UnknownKey           no such asset or KID, and the view is caught up
    ├── Retry                    the same input may succeed later: backoff, 503
    │   ├── NotReady             a view has not caught up, or a program is stopping
    │   └── Unavailable          a broker, KMS or upstream does not answer
    └── Stop                     going on would do harm: exit non-zero, page
        ├── Corrupt              stored data contradicts itself
        └── Misconfigured        settings, topics or key files are not what they must be

Edges act on the fate alone. A message says what, which KID or asset, and what to do; it never holds key bytes.
"""


class KeymillError(Exception):
    """The root of the tree. Never raised itself."""


class Reject(KeymillError):
    """The input can never succeed. `code` is stable and documented in docs/errors.md."""

    code = "rejected"

    def __init__(self, message: str, *, field: str = "", code: str = "") -> None:
        super().__init__(message)
        self.field = field
        if code:
            self.code = code


class InvalidRecord(Reject):
    """The bytes or values break the record's format; `field` names the first one that does."""

    code = "invalid_record"


class Conflict(Reject):
    """The input contradicts a choice that an earlier event made; nothing changes."""

    code = "conflict"


class UnknownKey(Reject):
    """A caught-up view holds no such asset, version or KID."""

    code = "unknown_key"


class Retry(KeymillError):
    """The same input may succeed later. `retry_after_s` is a hint for Retry-After."""

    code = "retry"

    def __init__(self, message: str, *, retry_after_s: int = 1, code: str = "") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        if code:
            self.code = code


class NotReady(Retry):
    """A view has not caught up yet, or the program is stopping."""

    code = "not_ready"


class Unavailable(Retry):
    """Something outside (broker, KMS, license server) does not answer."""

    code = "unavailable"


class Stop(KeymillError):
    """Going on would do harm: the program exits non-zero and nothing is overwritten."""

    code = "stop"


class Corrupt(Stop):
    """Stored data contradicts itself."""

    code = "corrupt"


class Misconfigured(Stop):
    """Settings, topics or key files are not what they must be; the message says which and what to do."""

    code = "misconfigured"


class LostKeys(Misconfigured):
    """
    Keys that an organization has worked with are not in the KMS: an old backup of it stands there.

    A command stops. A processor, which works for others too, refuses that organization's events until ops restore the
    keys and `keymill dlq redrive` them.
    """

    code = "keys_missing"
