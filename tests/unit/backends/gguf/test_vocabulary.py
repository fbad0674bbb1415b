"""Tokens held back inside a character are found again from its bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.gguf.vocabulary import Vocabulary, read_vocabulary

PLAIN = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
OTHERS = [byte for byte in range(256) if byte not in PLAIN]


def letters(piece: bytes) -> str:
    """The byte-level spelling of GPT-2 vocabularies."""
    return "".join(chr(b) if b in PLAIN else chr(0x100 + OTHERS.index(b)) for b in piece)


FRAGMENTS = [b" \xf0\x9f", b"\xf0\x9f", b"\x98", b"\x80", b"\x98\x80", b"\xc3", b"\xa9"]
GPT2 = read_vocabulary("gpt2", ["a", letters(" é".encode()), *map(letters, FRAGMENTS)], [])


def test_byte_level_fragments() -> None:
    emoji = " 😀".encode()
    assert GPT2.held(emoji, 2, 5) == [2, 4]
    assert GPT2.held(emoji, 1, 6) == [2]
    assert GPT2.held("é".encode(), 1, 8) == [7]


def test_byte_tokens() -> None:
    spm = read_vocabulary("llama", ["<unk>", "▁a", *[f"<0x{b:02X}>" for b in range(256)]], [])
    data = "日".encode()
    assert spm.held(data, 2, 2 + data[2]) == [2 + data[0], 2 + data[1]]


@pytest.mark.parametrize(
    ("text", "count", "last"),
    [
        ("😀".encode(), 2, 0),
        ("😀".encode(), 3, 5),
        (b"\xf0\x9f", 1, 5),
        ("\ufffdhello".encode(), 1, 5),
        ("😀".encode() * 30, 60, 5),
        (b"a", 0, 0),
    ],
)
def test_what_cannot_be_found_is_not_guessed(text: bytes, count: int, last: int) -> None:
    assert GPT2.held(text, count, last) is None


def test_control_markers_are_noticed() -> None:
    tokens = ["<s>", "<tool_call>", "</tool_call>", "<think>"]
    words = read_vocabulary("gpt2", tokens, [3, 3, 1, 4])
    words.keep(["<tool_call>", "<think>"])
    assert words.markers == ("<tool_call>",)


@given(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=8, unique=True), st.data())
def test_found_pieces_make_the_text(pieces: list[bytes], data: st.DataObject) -> None:
    words = Vocabulary(dict(enumerate(pieces)))
    chosen = data.draw(st.lists(st.integers(0, len(pieces) - 1), min_size=2, max_size=6))
    text = b"".join(pieces[token] for token in chosen)
    found = words.held(text, len(chosen) - 1, chosen[-1])
    assert found is not None
    assert len(found) == len(chosen) - 1
    assert b"".join(pieces[token] for token in [*found, chosen[-1]]) == text
