"""Budgets count what real tokenizers make of a prompt: the very tokens that usage tells."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from opta_lmx.models.store import ModelStore
from tests.support.encoders import tiny_encoder, tiny_encoder_gguf
from tests.support.process import ServerProcess, start_server
from tests.support.tiny import tiny_gguf, tiny_llama

LIMIT = 60
FREE = {"Authorization": "Bearer sk-free"}
MODELS = [f"{kind}-{engine}" for kind in ("chat", "embed", "rerank") for engine in ("mlx", "gguf")]
BOUNDS = {"request": "prompt_tokens", "minute": "prompt_tokens_per_minute"}


class Asked(NamedTuple):
    """A reply, and the prompt's tokens as its usage tells them."""

    status: int
    tokens: int
    error: dict[str, Any]
    retry_after: str | None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models")
    store.sweep()
    store.add(tiny_llama(), "chat-mlx")
    store.add(tiny_gguf(), "chat-gguf")
    for kind, rerank in (("embed", False), ("rerank", True)):
        store.add(tiny_encoder(rerank=rerank), f"{kind}-mlx")
        store.add(tiny_encoder_gguf(rerank=rerank), f"{kind}-gguf")
    keys = ['{name = "free", key = "sk-free"}']
    for model in MODELS:
        for name, field in BOUNDS.items():
            keys.append(
                f'{{name = "{name}-{model}", key = "sk-{name}-{model}", {field} = {LIMIT}}}'
            )
    settings = {"LMX_ENGINE__THREADS": "1", "LMX_ACCESS__KEYS": f"[{', '.join(keys)}]"}
    running = start_server(home, **settings)
    try:
        running.wait_listening()
        running.http.headers.update(FREE)
        yield running
    finally:
        running.http.close()
        running.stop()


def ask(server: ServerProcess, model: str, words: int, key: str) -> Asked:
    text = ("the " if model.startswith("chat") else "a ") * words
    body: dict[str, Any] = {"model": model}
    match model.partition("-")[0]:
        case "chat":
            path = "/v1/chat/completions"
            body |= {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
        case "embed":
            path, body["input"] = "/v1/embeddings", [text, "of"]
        case _:
            path = "/v1/rerank"
            body |= {"query": "of", "documents": [text, "of"]}
    reply = server.http.post(
        server.url + path, json=body, headers={"Authorization": f"Bearer {key}"}
    )
    return told(reply)


def told(reply: httpx.Response) -> Asked:
    body = reply.json()
    tokens = body["usage"]["prompt_tokens"] if reply.status_code == 200 else 0
    error = body.get("error", {})
    return Asked(reply.status_code, tokens, error, reply.headers.get("retry-after"))


@pytest.mark.parametrize("model", MODELS)
def test_the_budgets_count_the_tokens_of_usage(server: ServerProcess, model: str) -> None:
    words = {ask(server, model, count, "sk-free").tokens: count for count in range(1, LIMIT)}
    assert {LIMIT - 1, LIMIT, LIMIT + 1} <= words.keys()
    least = min(words)

    for tokens in (LIMIT - 1, LIMIT):
        asked = ask(server, model, words[tokens], f"sk-request-{model}")
        assert (asked.status, asked.tokens) == (200, tokens), asked
    refused = ask(server, model, words[LIMIT + 1], f"sk-request-{model}")
    assert (refused.status, refused.error["code"]) == (400, "prompt_budget_exceeded")
    assert f"{LIMIT + 1} tokens" in refused.error["message"]

    minute = f"sk-minute-{model}"
    assert ask(server, model, words[least], minute).status == 200
    for tokens, status in ((LIMIT - least + 1, 429), (LIMIT - least, 200), (least, 429)):
        asked = ask(server, model, words[tokens], minute)
        assert asked.status == status, asked
        if status == 429:
            assert asked.error["code"] == "token_rate_exceeded"
            assert asked.retry_after is not None
            assert 1 <= int(asked.retry_after) <= 60
