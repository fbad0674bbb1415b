import json
import random
from itertools import pairwise

import pytest

from benchmarks.fleet.dialects import Caller, body_of, headers_of
from benchmarks.fleet.rendering import TEMPLATE, render
from benchmarks.fleet.script import (
    DIALECTS,
    Ask,
    Conversation,
    Dialect,
    House,
    Sizes,
    Text,
    job,
)


def house(seed: str = "s") -> House:
    return House(Text(1.5), Sizes().scaled(0.05), seed)


def talk(dialect: Dialect, turns: int, bot: str = "a", seed: str = "s") -> list[Ask]:
    conversation = Conversation(house(seed), bot, 0, dialect)
    asks: list[Ask] = []
    for number in range(turns):
        asks.append(conversation.ask())
        conversation.answered(f"answer {number}")
    return asks


def common(one: str, other: str) -> int:
    same = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(same, min(len(one), len(other)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_seed_makes_the_same_conversation(dialect: Dialect) -> None:
    assert talk(dialect, 4) == talk(dialect, 4)
    assert talk(dialect, 4) != talk(dialect, 4, seed="other")
    assert talk(dialect, 4)[0].turns != talk(dialect, 4, bot="b")[0].turns


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_shares_all_but_the_tail_with_the_one_before(dialect: Dialect) -> None:
    asks = talk(dialect, 6)
    for before, after in pairwise(asks):
        earlier, later = render(before, joined=True), render(after, joined=True)
        # The volatile message is not kept, so this is no continuation of it.
        assert not later.startswith(earlier.removesuffix("<|im_start|>assistant\n"))
        # The server joins the two user turns by a blank line: up to there all is the same.
        assert common(earlier, later) >= earlier.index(before.tail) - 2
        assert before.tail not in later
        assert after.turns[: len(before.turns)] == before.turns
        assert len(after.turns) > len(before.turns)


def test_in_one_dialect_bots_share_the_whole_system_text() -> None:
    first, second = talk("completions", 1)[0], talk("completions", 1, bot="b")[0]
    assert (first.system, first.tools) == (second.system, second.tools)
    assert first.session in first.turns[0].text


@pytest.mark.parametrize("dialect", ["responses", "messages"])
def test_in_two_dialects_bots_part_within_the_system_text(dialect: Dialect) -> None:
    first, second = talk(dialect, 1)[0], talk(dialect, 1, bot="b")[0]
    assert first.system != second.system
    assert first.session in first.system
    shared = common(first.system, second.system) / len(first.system)
    # One names the session near the end, the other where its second block begins.
    assert (shared > 0.9) == (dialect == "responses")
    assert shared > 0.8


def test_sizes_are_those_of_openclaw_and_scale() -> None:
    sizes = Sizes()
    assert sizes.stable + sizes.dynamic + sizes.tools == 12_000
    half = sizes.scaled(0.5)
    assert half.stable + half.dynamic + half.tools == 6000
    assert half.answer == sizes.answer == (60, 200)


def test_text_has_about_as_many_tokens_as_wanted() -> None:
    assert len(Text(1.5).make(random.Random(1), 300).split()) == 200
    assert Text(1.5).make(random.Random(1), 0)


def test_tool_turns_are_whole_exchanges() -> None:
    turns = talk("completions", 12)[-1].turns
    calls = [place for place, turn in enumerate(turns) if turn.call is not None]
    assert calls
    for place in calls:
        call = turns[place].call
        assert call is not None
        assert call.id.isalnum()
        assert turns[place - 1].role == "user"
        assert turns[place + 1].call_id == call.id
    ids = [turn.call_id for turn in turns if turn.role == "tool"]
    assert len(set(ids)) == len(ids)


def test_jobs_share_nothing_with_bots_or_each_other() -> None:
    one, other = (job(house(), number, 40, 9) for number in (1, 2))
    assert one.turns != other.turns
    assert (one.system, one.tools, one.tail) == ("", (), "")
    body = body_of(one, "m")
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert "tools" not in body


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_have_what_openclaw_sends(dialect: Dialect) -> None:
    ask = talk(dialect, 8)[-1]
    body = body_of(ask, "m")
    limits = {
        "completions": "max_completion_tokens",
        "responses": "max_output_tokens",
        "messages": "max_tokens",
    }
    assert body[limits[dialect]] == ask.max_tokens
    assert body["stream"] is True
    assert len(body["tools"]) == len(ask.tools)
    assert not {"temperature", "top_p", "stop", "seed", "user"} & body.keys()
    text = json.dumps(body)
    for words in (ask.tail, ask.turns[0].text, ask.stable[:50]):
        assert json.dumps(words)[1:-1] in text
    assert ("prompt_cache_key" in body) == (dialect != "messages")
    assert "prompt_cache_key" not in body_of(ask, "m", plain=True)


def test_the_last_message_is_a_list_of_one_text_in_every_dialect() -> None:
    for dialect in DIALECTS:
        body = body_of(talk(dialect, 2)[-1], "m")
        last = (body.get("messages") or body["input"])[-1]
        assert last["role"] == "user"
        assert [part["text"].splitlines()[0] for part in last["content"]] == [
            "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"
        ]


def test_who_asks_is_in_the_headers() -> None:
    caller = Caller("k", "bot-1", "background")
    chat = headers_of(talk("completions", 1)[0], caller)
    assert chat["Authorization"] == "Bearer k"
    assert (chat["X-Client-ID"], chat["X-Serving-Lane"]) == ("bot-1", "background")
    native = headers_of(talk("messages", 1)[0], Caller("k"))
    assert native["x-api-key"] == "k"
    assert not {"Authorization", "X-Client-ID", "X-Serving-Lane"} & native.keys()


@pytest.mark.parametrize("joined", [True, False])
def test_our_rendering_is_what_the_template_writes(joined: bool) -> None:
    import jinja2

    environment = jinja2.Environment(keep_trailing_newline=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(TEMPLATE)
    ask = talk("completions", 9)[-1]
    body = body_of(ask, "m")
    messages = []
    for message in body["messages"]:
        content = message["content"]
        turn = {**message, "content": content[0]["text"] if isinstance(content, list) else content}
        turn["content"] = turn["content"] or ""
        for call in turn.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        if joined and messages and messages[-1]["role"] == turn["role"] == "user":
            messages[-1]["content"] += "\n\n" + turn["content"]
        else:
            messages.append(turn)
    text = template.render(messages=messages, tools=body["tools"], add_generation_prompt=True)
    assert render(ask, joined=joined) == text
