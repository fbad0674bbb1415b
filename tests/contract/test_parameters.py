"""Sampling fields do what they say, on both engines, over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import tiny_gguf, tiny_llama

MODELS = ("tiny-mlx", "tiny-gguf")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models")
    store.sweep()
    store.add(tiny_gguf(), "tiny-gguf")
    store.add(tiny_llama(), "tiny-mlx")
    arguments = [word for model in MODELS for word in ("--model", model)]
    with running_server(home, *arguments, LMX_ENGINE__THREADS="1") as running:
        yield running


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
def test_greedy_is_repeatable_and_ignores_the_seed(server: ServerProcess, model: str) -> None:
    texts = {text(ask(server, model, temperature=0, seed=seed)) for seed in (1, 2, 3)}
    assert len(texts) == 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", [0, 7, -5, 2**63 - 1, -(2**63)])
def test_one_seed_gives_one_text(server: ServerProcess, model: str, seed: int) -> None:
    first, second = (text(ask(server, model, temperature=1.5, seed=seed)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("model", MODELS)
def test_different_seeds_give_different_texts(server: ServerProcess, model: str) -> None:
    texts = {text(ask(server, model, temperature=1.5, seed=seed)) for seed in range(6)}
    assert len(texts) > 3


@pytest.mark.parametrize("model", MODELS)
def test_without_a_seed_texts_differ(server: ServerProcess, model: str) -> None:
    texts = {text(ask(server, model, temperature=1.5)) for _ in range(6)}
    assert len(texts) > 3


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_a_single_choice_left_is_the_greedy_one(
    server: ServerProcess, model: str, narrow: dict[str, Any]
) -> None:
    greedy = text(ask(server, model, temperature=0))
    assert text(ask(server, model, temperature=1.5, **narrow)) == greedy


@pytest.mark.parametrize("model", MODELS)
def test_limits_and_counts_are_exact(server: ServerProcess, model: str) -> None:
    for limit in (1, 5, 17):
        answer = ask(server, model, max_completion_tokens=limit, temperature=0)
        assert answer["usage"]["completion_tokens"] == limit
        assert answer["choices"][0]["finish_reason"] == "length"
    counts = {model: ask(server, model)["usage"]["prompt_tokens"] for model in MODELS}
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_stop_string_is_cut_wherever_it_falls(server: ServerProcess, model: str) -> None:
    whole = text(ask(server, model, temperature=0, max_tokens=40))
    stop = whole[len(whole) // 3 : len(whole) // 3 + 6]
    answer = ask(server, model, temperature=0, max_tokens=40, stop=[stop])
    assert text(answer) == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 40
