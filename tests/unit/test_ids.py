"""The id rules: what a name may be, and that no two names make one record key."""

import json
from importlib.resources import files

import pytest

from keymill.errors import InvalidRecord
from schemas import ids

VECTORS = json.loads(files("schemas").joinpath("golden/ids.json").read_text())


@pytest.mark.parametrize("name", VECTORS["organizations"]["valid"])
def test_organization_ids_are_accepted(name):
    """Every valid golden name."""
    assert ids.check_organization(name) == name


@pytest.mark.parametrize("name", VECTORS["organizations"]["invalid"], ids=ascii)
def test_ill_formed_organization_ids_are_refused(name):
    """Every invalid golden name, by field."""
    with pytest.raises(InvalidRecord) as refused:
        ids.check_organization(name)
    assert refused.value.field == "organization"


@pytest.mark.parametrize("name", VECTORS["assets"]["valid"], ids=ascii)
def test_asset_ids_are_accepted(name):
    """Every valid golden name, and its content id leads back to it."""
    assert ids.check_asset(name) == name
    assert ids.asset_of_content_id(ids.content_id_of_asset(name)) == name


@pytest.mark.parametrize("name", VECTORS["assets"]["invalid"], ids=ascii)
def test_ill_formed_asset_ids_are_refused(name):
    """Every invalid golden name; `hex:` is reserved for content ids that are no asset id."""
    with pytest.raises(InvalidRecord) as refused:
        ids.check_asset(name)
    assert refused.value.field == "asset"


@pytest.mark.parametrize("vector", VECTORS["content_ids"], ids=lambda v: v["content_id"][:24])
def test_a_content_id_stands_for_one_asset(vector):
    """Both directions, and the asset id that comes out is a valid one."""
    content_id = bytes.fromhex(vector["content_id"])
    assert ids.asset_of_content_id(content_id) == vector["asset"]
    assert ids.content_id_of_asset(vector["asset"]) == content_id
    assert ids.check_asset(vector["asset"]) == vector["asset"]


@pytest.mark.parametrize("content_id", VECTORS["content_ids_refused"], ids=lambda v: v[:24])
def test_a_content_id_without_an_asset_id_is_refused(content_id):
    """Empty, or too long for the spelling that it needs."""
    with pytest.raises(InvalidRecord) as refused:
        ids.asset_of_content_id(bytes.fromhex(content_id))
    assert refused.value.field == "content_id"


def test_record_keys_are_spelled_as_the_golden_ones():
    """Outside producers rely on these bytes."""
    organization, asset, expected = VECTORS["record_keys"]["asset"]
    assert ids.asset_key(organization, asset) == expected.encode()
    organization, asset, digest, expected = VECTORS["record_keys"]["key_set"]
    key = ids.key_set_key(organization, asset, bytes.fromhex(digest))
    assert key == expected.encode()
    assert ids.is_key_set(key)
    assert ids.partition_key(key) == ids.asset_key(organization, asset)


def test_an_asset_named_k_is_no_key_set():
    """The separator of key records cannot be spelled by names."""
    assert not ids.is_key_set(ids.asset_key("k", "k"))
    assert ids.partition_key(ids.asset_key("k", "k")) == b"k/k"
