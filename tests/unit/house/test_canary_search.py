"""The search that canary tests rely on finds what it should."""

import base64

import pytest

from tests.support.canaries import Canary, sightings


@pytest.mark.parametrize("spelling", Canary("x", "0123456789abcdef01234567").spellings())
def test_the_search_finds_each_spelling(spelling: str) -> None:
    canary = Canary("x", "0123456789abcdef01234567")
    for before in (b"", b"a", b"ab", b"abc"):
        text = before + canary.core.encode() + b"z"
        said = {
            "plain": text.upper(),
            "hex": text.hex().encode(),
            "reversed": text[::-1],
        }.get(spelling, base64.b64encode(text))
        assert any(sightings(said, [canary])), (spelling, before)
    assert not any(sightings(b"nothing of the kind", [canary]))
