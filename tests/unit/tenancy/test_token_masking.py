"""No token is in what is logged or told, whole or cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.security.redaction import Redactor
from tests.support.identity import ALGORITHMS, signer

CLAIMS = {"iss": "https://id.example", "sub": "bot", "exp": 1}
TOKENS = [signer(one).token(CLAIMS) for one in ALGORITHMS]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "around", ["{}", "x{}y", "?token={}&a=b", '"{}",', "%22{}", "b'{}'", "a.{}"]
)
def test_tokens_are_masked_wherever_they_stand(token: str, around: str) -> None:
    for masked in (
        Redactor().mask(around.format(token)),
        Redactor().mask_keys(around.format(token)),
    ):
        assert "eyJ***" in masked
        assert not any(part in masked for part in token.split("."))


@given(st.sampled_from(TOKENS), st.integers(9, 400))
def test_what_is_left_of_one_that_was_cut_is_masked(token: str, length: int) -> None:
    cut = token[:length]
    assert Redactor().mask(f"model {cut} is unknown") == "model eyJ*** is unknown"


@pytest.mark.parametrize(
    "text", ["they joined", "eyJ", "eyJoy.x", "keyJson", "a.b.c", "monkeyJet 5"]
)
def test_other_words_stay(text: str) -> None:
    assert Redactor().mask(text) == text


def test_masking_takes_no_long() -> None:
    text = "eyJabcdef" + ".a" * 200_000 + "eyJ" * 100_000
    assert Redactor().mask(text) == "eyJ***"
