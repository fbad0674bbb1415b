"""Model names stay inside the store."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import LmxError
from opta_lmx.models.names import checked_name, flat, suggested_name, valid_name

ODD = st.text(alphabet=st.sampled_from("aB1._-/\\~%+ \0:é"), max_size=12)


@pytest.mark.parametrize("name", ["starter", "org/Model-1.5_x", "0", "a" * 96 + "/" + "b" * 96])
def test_usual_names(name: str) -> None:
    assert checked_name(name) == name


# fmt: off
NO_NAMES = [
    "", ".", "..", "../x", "a/..", "a/../b", "/a", "a/", "a//b", "a/b/c", ".a", "a/.b", "-a",
    "a\\b", "a b", "a\n", "a\0", "~", "~/x", "é", "a%2Fb", "C:", "a" * 97, "_a",
]
# fmt: on


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_climb_or_confuse(name: str) -> None:
    with pytest.raises(LmxError) as caught:
        checked_name(name)
    assert caught.value.code == "invalid_model_name"
    assert caught.value.param == "model"


@given(name=ODD)
def test_a_valid_name_is_one_or_two_plain_folders(name: str) -> None:
    if valid_name(name):
        root = Path("/store")
        path = (root / name).resolve()
        assert path.is_relative_to(root)
        assert len(path.relative_to(root).parts) == name.count("/") + 1
        assert all(not part.startswith(".") for part in path.relative_to(root).parts)


@given(name=ODD)
def test_a_suggestion_is_valid(name: str) -> None:
    assert valid_name(suggested_name(name))


@given(one=ODD, other=ODD)
def test_flat_names_differ_as_names_do(one: str, other: str) -> None:
    if valid_name(one) and valid_name(other):
        assert (flat(one) == flat(other)) == (one.lower() == other.lower())
        assert "/" not in flat(one)
