"""Memory for caches: never more of it than there is, and everybody is answered."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from opta_lmx.backends.frames import Step
from opta_lmx.core.principal import Budgets, Caller, Lane, Principal
from opta_lmx.engine.turns import Turns
from tests.integration.serving.test_sim_serving import Stack, with_stack
from tests.support.server import sim_server
from tests.support.waiting import until

REPLY = "".join(f"w{number} " for number in range(150))
TOKEN = 1000
SCRIPT = {"reply": REPLY, "kv_bytes": TOKEN, "resumes": "all", "pauses": True, "step_ms": 0.2}


class Scale:
    """Weighs every step of a model, and counts who was asked to pause."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights: list[int] = []
        self.pauses = 0
        stepped, ask = Turns.stepped, Turns._ask_to_pause

        def weigh(turns: Turns, step: Step) -> None:
            self.weights.append(step.kv_bytes)
            stepped(turns, step)

        def count(turns: Turns, ticket: int) -> bool:
            self.pauses += 1
            return ask(turns, ticket)

        monkeypatch.setattr(Turns, "stepped", weigh)
        monkeypatch.setattr(Turns, "_ask_to_pause", count)


def test_rows_never_take_more_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale, budget = Scale(monkeypatch), 500 * TOKEN

    async def body(stack: Stack) -> None:
        await asyncio.gather(*(stack.text("a", max_tokens=9) for _ in range(8)))
        assert scale.pauses == 0
        # By now answers are expected to be short: these will outgrow what is reserved for them.
        asked = [
            stack.text("a", text="x" * length, caller=Caller(Principal(), f"bot-{length}", lane))
            for length in (5, 60, 100)
            for lane in Lane
        ]
        texts = await asyncio.gather(*asked)
        assert texts == [REPLY] * len(asked)
        kv = stack.engine.status()[0].kv
        await until(lambda: stack.engine.status()[0].kv.reserved == 0)
        assert kv.available == budget

    # Steps as long as a real model's: the front has `GRAIN` of them to have a row paused.
    script = {**SCRIPT, "kv_budget": budget, "step_ms": 5}
    with_stack(tmp_path, {"a": script}, body, slots=8, max_waiting=100)
    assert scale.pauses > 0
    assert budget * 0.8 < max(scale.weights) <= budget


def test_an_engine_that_cannot_pause_reserves_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale, budget = Scale(monkeypatch), 500 * TOKEN

    async def body(stack: Stack) -> None:
        texts = await asyncio.gather(*(stack.text("a", max_tokens=200) for _ in range(20)))
        assert texts == [REPLY] * 20

    script = {**SCRIPT, "kv_budget": budget, "resumes": "none", "pauses": False}
    with_stack(tmp_path, {"a": script}, body, slots=8, max_waiting=100)
    assert scale.pauses == 0
    # Two of 5 + 200 tokens fit, three do not.
    assert 2 * 150 * TOKEN < max(scale.weights) <= 2 * 205 * TOKEN


def test_held_prompts_make_way_for_rows(tmp_path: Path) -> None:
    held = {"caches": "trimmable", "kv_budget": 1000 * TOKEN}
    with sim_server(tmp_path, {"a": {**SCRIPT, **held}}, slots=4) as server:

        def ask(text: str, tokens: int) -> None:
            body = {"model": "a", "prompt": text, "max_tokens": tokens}
            reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)
            assert reply.status_code == 200

        for number in range(4):
            ask(f"{number}" * 100, 3)
        before = server.status("a")["cache"].memory_bytes
        assert 300 * TOKEN < before <= 500 * TOKEN
        ask("y" * 840, 150)
        assert server.status("a")["cache"].memory_bytes < before


def test_a_keys_own_share_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = Scale(monkeypatch)
    capped = Caller(Principal(key="capped", budgets=Budgets(kv_bytes=400 * TOKEN)))

    async def body(stack: Stack) -> None:
        asked = [stack.text("a", max_tokens=150, caller=capped) for _ in range(6)]
        assert await asyncio.gather(*asked) == [REPLY] * 6
        assert 200 * TOKEN < max(scale.weights) <= 400 * TOKEN
        async with stack.call("a", "x" * 300, capped) as run:
            assert (await run.open()).max_tokens == 100

    with_stack(tmp_path, {"a": SCRIPT}, body, slots=8)


def test_what_can_never_fit_is_told_with_numbers(tmp_path: Path) -> None:
    keys = [{"name": "small", "key": "sk-small", "kv_bytes": 50 * TOKEN}]
    keys += [{"name": "free", "key": "sk-free", "scopes": ["inference", "metrics"]}]
    script = {**SCRIPT, "kv_budget": 100 * TOKEN}
    with sim_server(tmp_path, {"a": script}, access={"keys": keys}) as server:

        def ask(key: str, tokens: int) -> tuple[int, dict[str, Any]]:
            body = {"model": "a", "prompt": "x" * tokens}
            headers = {"authorization": f"Bearer {key}"}
            url = f"{server.url}/v1/completions"
            reply = httpx.post(url, json=body, headers=headers, timeout=30)
            return reply.status_code, reply.json()

        status, answer = ask("sk-free", 99)
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")
        status, answer = ask("sk-free", 100)
        error = answer["error"]
        assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
        assert error["message"].startswith("This model's maximum context length is 100 tokens.")
        assert error["message"].endswith(
            "The caches of 100 tokens take 100000 bytes; this model has 100000 bytes for caches."
        )
        assert ask("sk-small", 49)[0] == 200
        status, answer = ask("sk-small", 50)
        error = answer["error"]
        assert (status, error["code"], error["param"]) == (400, "cache_budget_exceeded", "prompt")
        metrics = httpx.get(
            f"{server.url}/metrics", headers={"authorization": "Bearer sk-free"}, timeout=30
        ).text
        assert 'opta_lmx_kv_cache_bytes{model="a"} 100000.0' in metrics
        assert 'opta_lmx_kv_cache_usage_perc{model="a"} 0.0' in metrics
