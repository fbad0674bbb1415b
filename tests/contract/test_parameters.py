"""Sampling fields do what they say, on both engines, over HTTP."""

from typing import Any

import pytest

from tests.support.process import ServerProcess

MODELS = ("tiny-mlx", "tiny-gguf")


def ask(server: ServerProcess, model: str, **fields: Any) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me something."}],
        "max_tokens": 24,
        **fields,
    }
    reply = server.http.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def text(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("model", MODELS)
def test_greedy_is_repeatable_and_ignores_the_seed(tiny_server: ServerProcess, model: str) -> None:
    texts = {text(ask(tiny_server, model, temperature=0, seed=seed)) for seed in (1, 2, 3)}
    assert len(texts) == 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", [0, 7, -5, 2**63 - 1, -(2**63)])
def test_one_seed_gives_one_text(tiny_server: ServerProcess, model: str, seed: int) -> None:
    first, second = (text(ask(tiny_server, model, temperature=1.5, seed=seed)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("model", MODELS)
def test_different_seeds_give_different_texts(tiny_server: ServerProcess, model: str) -> None:
    texts = {text(ask(tiny_server, model, temperature=1.5, seed=seed)) for seed in range(6)}
    assert len(texts) > 3


@pytest.mark.parametrize("model", MODELS)
def test_without_a_seed_texts_differ(tiny_server: ServerProcess, model: str) -> None:
    texts = {text(ask(tiny_server, model, temperature=1.5)) for _ in range(6)}
    assert len(texts) > 3


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_a_single_choice_left_is_the_greedy_one(
    tiny_server: ServerProcess, model: str, narrow: dict[str, Any]
) -> None:
    greedy = text(ask(tiny_server, model, temperature=0))
    assert text(ask(tiny_server, model, temperature=1.5, **narrow)) == greedy


@pytest.mark.parametrize("model", MODELS)
def test_limits_and_counts_are_exact(tiny_server: ServerProcess, model: str) -> None:
    for limit in (1, 5, 17):
        answer = ask(tiny_server, model, max_completion_tokens=limit, temperature=0)
        assert answer["usage"]["completion_tokens"] == limit
        assert answer["choices"][0]["finish_reason"] == "length"
    counts = {model: ask(tiny_server, model)["usage"]["prompt_tokens"] for model in MODELS}
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_stop_string_is_cut_wherever_it_falls(tiny_server: ServerProcess, model: str) -> None:
    whole = text(ask(tiny_server, model, temperature=0, max_tokens=40))
    stop = whole[len(whole) // 3 : len(whole) // 3 + 6]
    answer = ask(tiny_server, model, temperature=0, max_tokens=40, stop=[stop])
    assert text(answer) == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 40
