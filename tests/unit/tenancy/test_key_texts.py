"""The text of keys: what is drawn, what is taken for one, what is kept of it."""

import hashlib
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.tenancy.keys import SECRET_CHARS, digest, mint, parse


def test_a_key_tells_its_id_and_nothing_of_another() -> None:
    drawn = [mint() for _ in range(200)]
    assert len({one.secret for one in drawn}) == len({one.id for one in drawn}) == 200
    for one in drawn:
        assert re.fullmatch(r"lmx_[A-Za-z0-9]{8}_[A-Za-z0-9]{43}", one.secret)
        assert parse(one.secret) == one.id


def test_a_secret_has_256_bits() -> None:
    assert SECRET_CHARS * math.log2(62) >= 256


def test_what_is_kept_is_sha256_of_the_whole_text() -> None:
    assert digest("lmx_a_b") == hashlib.sha256(b"lmx_a_b").hexdigest().encode()
    one = mint().secret
    assert digest(one) != digest(one[:-1] + ("a" if one[-1] != "a" else "b"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:-1],
        lambda text: text + "a",
        lambda text: text.replace("lmx_", "LMX_"),
        lambda text: text[:-1] + "-",
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "٣",
    ],
)
def test_what_only_looks_like_a_key_is_none(change: "object") -> None:
    assert callable(change)
    assert parse(change(mint().secret)) is None


@given(st.text())
def test_any_text_is_parsed_and_digested(text: str) -> None:
    assert parse(text) is None
    assert len(digest(text)) == 64


def test_half_characters_are_digested() -> None:
    assert digest("\ud800") != digest("\ud801")
