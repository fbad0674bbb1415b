"""Frames survive any split of the byte stream; bad lengths end the connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import (
    MAX_FRAME_BYTES,
    Fault,
    FrameBuffer,
    FrameError,
    Log,
    Prepared,
    Released,
    Step,
    ToFront,
    TokenOut,
    encode,
    to_front_decoder,
)

token_outs = st.builds(
    TokenOut,
    request=st.integers(0, 2**40),
    id=st.integers(0, 2**20),
    piece=st.binary(max_size=8),
    finish=st.sampled_from([None, "stop", "length"]),
)
frames: st.SearchStrategy[ToFront] = st.one_of(
    st.builds(Released, st.integers(0, 2**60)),
    st.builds(Prepared, st.integers(0, 9), st.lists(st.integers(0, 2**20)).map(tuple)),
    st.builds(Fault, st.text(), st.text(), st.none() | st.integers(0, 9)),
    st.builds(Log, st.text(), st.text(), st.dictionaries(st.text(), st.integers(0, 9))),
    st.builds(
        Step, st.integers(0, 9), st.floats(0, 9), st.lists(token_outs, max_size=4).map(tuple)
    ),
)


@given(st.lists(frames, max_size=8), st.data())
def test_any_split_gives_the_same_frames(sent: list[ToFront], data: st.DataObject) -> None:
    stream = b"".join(encode(frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer = FrameBuffer()
    received: list[ToFront] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += [to_front_decoder.decode(body) for body in buffer.feed(stream[start:end])]
    assert received == sent


def test_a_length_beyond_the_limit_is_refused() -> None:
    with pytest.raises(FrameError):
        list(FrameBuffer().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little")))
