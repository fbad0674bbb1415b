"""Text completions as bytes: the best of many, log-probabilities, echoes, streams."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.exchange import Choice, Outcome
from opta_lmx.api.openai.completions_logprobs import LogprobWriter
from opta_lmx.api.openai.completions_parse import CompletionParser
from opta_lmx.api.openai.completions_render import CompletionRendering
from opta_lmx.codec.deltas import Collected, TextDelta
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Accepted, Speech, TokenEvent, TopLogprob, Usage
from opta_lmx.serving.answering import Ended, Spoke

USAGE = Usage(3, 4, 1)


def accepted(text: str | None = None) -> Accepted:
    return Accepted("m", 3, 16, Speech(), prompt_text=text, fingerprint="fp")


def rendering(*prompts: str | None, **fields: Any) -> CompletionRendering:
    prompt = [text or "p" for text in prompts] or ["p"]
    call = CompletionParser()({"model": "m", "prompt": prompt, **fields})
    known = [accepted(text) for text in prompts] or [accepted()]
    return CompletionRendering("cmpl-1", 5, call, lambda: known)


def token(piece: bytes, logprob: float | None = -1.0, *top: tuple[bytes, float]) -> TokenEvent:
    return TokenEvent(0, 1, piece, logprob, tuple(TopLogprob(2, p, b) for b, p in top))


def choice(text: str, *logprobs: float) -> Choice:
    tokens = tuple(token(b"x", logprob) for logprob in logprobs)
    return Choice(Collected(text, "", ()), "stop", None, tokens)


def plain(made: CompletionRendering, *choices: Choice) -> dict[str, Any]:
    made.opened(accepted())
    return json.loads(made.whole(Outcome(accepted(), choices, USAGE)))


def chunks(data: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in data.split(b"\n\n") if part and b"[DONE]" not in part]


def test_the_best_have_the_highest_mean_and_are_told_best_first() -> None:
    body = plain(
        rendering(n=2, best_of=4),
        choice("long", -0.5, -0.5, -0.5, -0.5),
        choice("poor", -3.0),
        choice("best", -0.1, -0.2),
        choice("empty"),
    )
    assert [one["text"] for one in body["choices"]] == ["best", "long"]
    assert [one["index"] for one in body["choices"]] == [0, 1]
    assert [one["logprobs"] for one in body["choices"]] == [None, None]


def test_each_prompt_has_its_own_best() -> None:
    body = plain(
        rendering("a", "b", n=1, best_of=2, echo=True),
        choice("1", -2.0),
        choice("2", -1.0),
        choice("3", -1.0),
        choice("4", -2.0),
    )
    assert [one["text"] for one in body["choices"]] == ["a2", "b3"]


def test_answers_of_several_prompts_follow_their_prompts() -> None:
    answers = [choice(text) for text in "wxyz"]
    body = plain(rendering("a", "b", n=2, echo=True), *answers)
    assert [one["text"] for one in body["choices"]] == ["aw", "ax", "by", "bz"]
    assert body["usage"]["total_tokens"] == 7
    assert body["system_fingerprint"] == "fp"


def test_logprobs_in_the_old_shape() -> None:
    tokens = (
        token(b"He", -0.1, (b"He", -0.1), (b"She", -2.0)),
        token(b"llo", -3.0, (b"y", -0.2)),
    )
    made = rendering(logprobs=2)
    body = plain(made, Choice(Collected("Hello", "", ()), "length", None, tokens))
    (one,) = body["choices"]
    assert one["finish_reason"] == "length"
    assert one["logprobs"] == {
        "tokens": ["He", "llo"],
        "token_logprobs": [-0.1, -3.0],
        "top_logprobs": [{"He": -0.1, "She": -2.0}, {"y": -0.2, "llo": -3.0}],
        "text_offset": [0, 2],
    }


def test_without_alternatives_there_are_none() -> None:
    made = LogprobWriter(0).write([token(b"a"), token(b"b", None)])
    assert made.top_logprobs is None
    assert made.token_logprobs == [-1.0, -9999.0]


@given(text=st.text(min_size=1, max_size=20), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_offsets_count_characters_however_tokens_cut_them(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    whole = LogprobWriter(0).write([token(piece) for piece in pieces])
    expected = [len(data[:place].decode(errors="ignore")) for place in places[:-1]]
    assert whole.text_offset == expected
    writer = LogprobWriter(0)
    streamed = [writer.write([token(piece)]) for piece in pieces]
    assert [one.text_offset[0] for one in streamed] == whole.text_offset
    assert [one.tokens[0] for one in streamed] == whole.tokens


def test_a_piece_of_a_character_is_spelled_in_bytes() -> None:
    assert LogprobWriter(0).write([token(b"\xe2\x82")]).tokens == ["bytes:\\xe2\\x82"]


def test_a_stream_opens_at_once_and_only_once() -> None:
    made = rendering()
    (first,) = chunks(made.opened(accepted()))
    assert first["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]
    late = rendering()
    assert chunks(late.waiting())
    assert late.opened(accepted()) == b""


def test_an_echo_comes_first_for_every_answer() -> None:
    made = rendering("a", "b", n=2, echo=True)
    said = chunks(made.opened(accepted()))
    texts = [(one["choices"][0]["index"], one["choices"][0]["text"]) for one in said]
    assert texts == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_a_stream_joins_to_the_plain_answer() -> None:
    tokens = [token("é".encode()[:1]), token("é".encode()[1:]), token(b"!")]
    made = rendering(logprobs=0, stream=True, stream_options={"include_usage": True})
    data = made.opened(accepted())
    data += made.event(Spoke(0, TextDelta("é"), tuple(tokens[:2])))
    data += made.event(Spoke(0, TextDelta("!"), tuple(tokens[2:])))
    data += made.event(Ended(0, "stop")) + made.finished(USAGE)
    assert data.endswith(b"data: [DONE]\n\n")
    parts = chunks(data)
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["total_tokens"] == 7
    said = [one["choices"][0] for one in parts[:-1]]
    assert said[-1]["finish_reason"] == "stop"
    assert "".join(one["text"] for one in said) == "é!"
    offsets = [at for one in said if one["logprobs"] for at in one["logprobs"]["text_offset"]]
    plain_made = rendering(logprobs=0)
    body = plain(plain_made, Choice(Collected("é!", "", ()), "stop", None, tuple(tokens)))
    assert offsets == body["choices"][0]["logprobs"]["text_offset"] == [0, 0, 1]


@pytest.mark.parametrize("kind", [ErrorKind.INTERNAL, ErrorKind.RATE_LIMITED])
def test_a_failure_in_a_stream_says_what_clients_retry_on(kind: ErrorKind) -> None:
    (said,) = chunks(rendering().failed(LmxError(kind, "gone")))
    assert said["error"]["type"] in {"server_error", "overloaded_error"}
