"""Joining bytes to text, however they are cut."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.utf8 import Utf8Joiner
from tests.unit.codec.splitting import split_at, splits

raw_bytes = st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
broken = st.lists(
    st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0", b"\xff"])
).map(b"".join)


def join(pieces: list[bytes]) -> str:
    joiner = Utf8Joiner()
    return "".join(joiner.feed(piece) for piece in pieces) + joiner.finish()


@given(raw_bytes | broken, splits)
def test_any_split_decodes_as_the_whole(data: bytes, cuts: list[int]) -> None:
    assert join(split_at(data, cuts)) == data.decode("utf-8", "replace")


def test_a_code_point_is_never_shown_in_parts() -> None:
    joiner = Utf8Joiner()
    assert [joiner.feed(bytes([byte])) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert joiner.finish() == ""


def test_an_unfinished_end_becomes_a_replacement_character() -> None:
    joiner = Utf8Joiner()
    assert joiner.feed(b"ok \xf0\x9f") == "ok "
    assert joiner.finish() == "�"


def test_plain_text_is_not_delayed_by_an_invalid_byte() -> None:
    assert Utf8Joiner().feed(b"a\xffb") == "a�b"
