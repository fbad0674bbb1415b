"""Streams of llama.cpp's events become exactly one `TokenOut` per token."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Drafted, Submit, TokenOut
from opta_lmx.backends.gguf.completion import (
    UNKNOWN_ID,
    BeginningReader,
    CompletionReader,
    EngineAnswerError,
    Progress,
    failure,
)
from opta_lmx.backends.gguf.vocabulary import Vocabulary
from opta_lmx.core.types import SamplingParams, TopLogprob

WORDS = Vocabulary({50: b"\xf0\x9f", 51: b"\x98", 52: b"\x80"})


def reader(max_tokens: int = 10, top: int | None = None, context: int = 100) -> CompletionReader:
    request = Submit(7, (1, 2, 3), SamplingParams(), max_tokens, top)
    return CompletionReader(request, context, WORDS)


def feed(stream: CompletionReader, **event: Any) -> list[Any]:
    return list(stream.feed(msgspec.json.encode(event)))


def token(text: str, number: int, count: int) -> dict[str, Any]:
    return {"content": text, "tokens": [number], "tokens_predicted": count, "stop": False}


def end(kind: str, count: int) -> dict[str, Any]:
    return {"stop_type": kind, "tokens_predicted": count, "timings": {"cache_n": 0}}


def test_progress() -> None:
    done = {"total": 3, "cache": 1, "processed": 2, "time_ms": 5}
    made = feed(reader(), content="", tokens=[0], tokens_predicted=0, prompt_progress=done)
    assert made == [Progress(7, cached=1, done=2, total=3, ms=5)]


def test_text_passes_at_once_and_the_end_token_tells_the_reason() -> None:
    stream = reader()
    assert feed(stream, **token("Hi", 40, 1)) == [TokenOut(7, 40, b"Hi")]
    assert feed(stream, **token("", 2, 2)) == []
    assert not stream.finished
    assert feed(stream, **end("eos", 2)) == [TokenOut(7, 2, b"", "stop")]
    assert stream.finished


def test_token_that_fills_the_limit_tells_the_reason() -> None:
    stream = reader(max_tokens=2)
    assert len(feed(stream, **token("a", 40, 1))) == 1
    assert feed(stream, **token("b", 41, 2)) == []
    assert feed(stream, **end("limit", 2)) == [TokenOut(7, 41, b"b", "length")]


def test_token_that_may_fill_the_window_tells_the_reason() -> None:
    stream = reader(context=5)
    assert feed(stream, **token("a", 40, 1)) == []
    assert feed(stream, **token("b", 41, 2)) == [TokenOut(7, 40, b"a")]
    assert feed(stream, **end("limit", 2)) == [TokenOut(7, 41, b"b", "length")]


def test_textless_token_in_the_middle_comes_with_the_next() -> None:
    stream = reader()
    assert feed(stream, **token("", 30, 1)) == []
    assert feed(stream, **token("a", 40, 2)) == [TokenOut(7, 30, b""), TokenOut(7, 40, b"a")]


def test_tokens_held_inside_a_character_are_found() -> None:
    made = feed(reader(), **token("😀", 52, 3))
    assert made == [TokenOut(7, 50, b""), TokenOut(7, 51, b""), TokenOut(7, 52, "😀".encode())]


def test_tokens_that_cannot_be_found_are_counted_all_the_same() -> None:
    made = feed(reader(), **token("日", 60, 3))
    assert [out.id for out in made] == [UNKNOWN_ID, UNKNOWN_ID, 60]
    assert [out.piece for out in made] == [b"", b"", "日".encode()]


def test_cut_inside_a_character() -> None:
    stream = reader(max_tokens=3)
    feed(stream, **token("a", 40, 1))
    made = feed(stream, **end("limit", 3))
    assert [(out.id, out.finish) for out in made] == [(UNKNOWN_ID, None), (UNKNOWN_ID, "length")]


def test_logprobs_carry_exact_bytes() -> None:
    top = [{"id": 40, "logprob": -0.5, "bytes": [72], "token": "H"}]
    top.append({"id": 50, "logprob": -2, "bytes": [240, 159], "token": "\ufffd"})
    chosen = {"id": 40, "logprob": -0.5, "bytes": [72], "token": "H", "top_logprobs": top}
    event = {**token("H", 40, 1), "completion_probabilities": [chosen]}
    expected = (TopLogprob(40, -0.5, b"H"), TopLogprob(50, -2.0, b"\xf0\x9f"))
    (out,) = feed(reader(top=2), **event)
    assert (out.logprob, out.top) == (-0.5, expected)
    (out,) = feed(reader(top=0), **event)
    assert (out.logprob, out.top) == (-0.5, ())
    (out,) = feed(reader(top=None), **event)
    assert (out.logprob, out.top) == (None, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b'{"tokens": "x"}',
        b'{"error": {"message": "boom", "code": 500}}',
        b'{"stop_type": "none", "tokens_predicted": 1}',
        b'{"stop_type": "eos", "tokens_predicted": 0}',
    ],
)
def test_anything_else_fails_this_request_only(data: bytes) -> None:
    with pytest.raises(EngineAnswerError):
        list(reader().feed(data))


def test_refusals_keep_their_words() -> None:
    refused = failure(400, b'{"error": {"code": 400, "message": "too long", "type": "x"}}')
    assert (str(refused), refused.bad_request) == ("too long", True)
    failed = failure(500, b"<html>")
    assert (str(failed), failed.bad_request) == ("llama.cpp answered with status 500", False)


@given(
    st.lists(st.sampled_from(["a", "😀", "", "é "]), min_size=1, max_size=20),
    st.sampled_from(["eos", "limit"]),
    st.integers(1, 30),
)
def test_one_output_for_each_token_and_one_end(parts: list[str], kind: str, limit: int) -> None:
    stream, made, count = reader(max_tokens=limit), list[TokenOut](), 0
    for part in parts:
        count += 3 if part == "😀" else 1
        made += feed(stream, **token(part, 52 if part == "😀" else 40, count))
    made += feed(stream, **token("", 2, count + 1))
    made += feed(stream, **end(kind, count + 1))
    assert len(made) == count + 1
    assert b"".join(out.piece for out in made).decode() == "".join(parts)
    assert [out.finish for out in made[:-1]] == [None] * count
    assert made[-1].finish == ("stop" if kind == "eos" else "length")


def test_guesses_are_told_as_they_grow() -> None:
    stream = reader(max_tokens=4)
    assert feed(stream, **token("a", 40, 1), timings={"cache_n": 1}) == [TokenOut(7, 40, b"a")]
    timings = {"draft_n": 4, "draft_n_accepted": 2}
    made = feed(stream, **token("b", 41, 2), timings=timings)
    assert made == [Drafted(7, 4, 2), TokenOut(7, 41, b"b")]
    assert feed(stream, **token("c", 42, 3), timings=timings) == [TokenOut(7, 42, b"c")]
    last = {**end("limit", 4), "timings": {"draft_n": 5, "draft_n_accepted": 2}}
    feed(stream, **token("d", 43, 4), timings=timings)
    assert feed(stream, **last)[0] == Drafted(7, 1, 0)


def test_of_a_beginning_only_the_progress_is_told() -> None:
    stream = BeginningReader(7, upto=4, total=9)
    done = {"total": 4, "cache": 1, "processed": 3, "time_ms": 5}
    made = feed(stream, content="", tokens=[0], tokens_predicted=0, prompt_progress=done)
    assert made == [Progress(7, cached=1, done=3, total=9, ms=5)]
    assert feed(stream, **token("a", 40, 1)) == []
    assert not stream.finished
    assert feed(stream, **end("limit", 1)) == [Progress(7, cached=1, done=4, total=9, ms=0)]
    assert stream.finished
    with pytest.raises(EngineAnswerError):
        feed(stream, error={"message": "no", "code": 500})
