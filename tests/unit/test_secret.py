"""A secret does not leave by accident."""

import copy
import json
import pickle

import msgspec
import pytest

from keymill.secret import Secret

CLEAR = b"clear key bytes!"
SECRET = Secret(CLEAR)


@pytest.mark.parametrize("shown", [repr(SECRET), str(SECRET), f"{SECRET}", f"{SECRET!r:>40}", "%s" % SECRET])  # noqa: UP031
def test_no_way_of_printing_shows_the_bytes(shown):
    """Only the length is said."""
    assert "clear" not in shown
    assert "16 bytes" in shown


@pytest.mark.parametrize(
    "leak",
    [pickle.dumps, copy.copy, copy.deepcopy, bytes, hash, json.dumps, msgspec.json.encode, msgspec.to_builtins],
)
def test_no_way_of_copying_takes_the_bytes_along(leak):
    """Pickling, copying, converting and hashing raise."""
    with pytest.raises((TypeError, NotImplementedError)) as raised:
        leak(SECRET)
    assert "clear" not in str(raised.value)


def test_secrets_compare_by_value_and_only_with_secrets():
    """Equality is of the bytes, in constant time; clear bytes are never equal to a secret."""
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
    assert len(Secret(b"abc")) == 3


def test_reveal_gives_the_bytes():
    """The one way out."""
    assert SECRET.reveal() == CLEAR


def test_a_keyed_object_is_made_once_per_secret():
    """A MAC or cipher is set up with the key once, and each way of making one is kept apart."""
    secret, made = Secret(b"k"), []

    def first(key):
        made.append(key)
        return [key]

    assert secret.keyed(first) is secret.keyed(first)
    assert secret.keyed(bytes.hex) == "6b"
    assert Secret(b"k").keyed(first) is not secret.keyed(first)
    assert made == [b"k", b"k"]


def test_a_secret_in_an_exception_or_a_record_stays_hidden():
    """What a log or a traceback would show of a value that holds one."""
    from keymill.core.envelope import ClearKey

    assert "clear" not in repr(ClearKey(cek=SECRET, iv=SECRET))
    assert "clear" not in repr(ValueError(SECRET))
