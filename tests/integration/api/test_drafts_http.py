"""Draft models as callers and operators see them: the same text, counts of guesses, refusals."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from opta_lmx.models.store import ModelStore
from tests.support.drafts import tiny_draft
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import tiny_gguf, tiny_llama, write_gguf

pytestmark = pytest.mark.engine
MESSAGES = [{"role": "user", "content": "def main(): import os"}]
DRAFTS = """
[engine.overrides]
fast = { draft = "little", draft_tokens = 3 }
odd = { draft = "words" }
folder = { draft = "little" }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One model that runs alone as `plain` and with a draft model as `fast`."""
    home = tmp_path_factory.mktemp("drafts")
    store = ModelStore(home / "models")
    store.sweep()
    write_gguf(home / "words.gguf", sentencepiece=True)
    sources = {"plain": tiny_gguf(), "fast": tiny_gguf(), "odd": tiny_gguf()}
    sources |= {"little": tiny_draft(), "words": home / "words.gguf", "folder": tiny_llama()}
    for name, source in sources.items():
        store.add(source, name)
    settings = ["[engine]", 'backend = "gguf"', "threads = 1", "slots = 3", "context = 1024"]
    (home / "config.toml").write_text("\n".join([*settings, DRAFTS]))
    with running_server(home, "--model", "fast") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True, max_retries=0
    ) as made:
        yield made


def chat(client: OpenAI, model: str, **more: Any) -> Any:
    fields = {"max_tokens": 40, "temperature": 0, **more}
    return client.chat.completions.create(model=model, messages=MESSAGES, **fields)  # type: ignore[call-overload]


def predictions(usage: Any) -> tuple[int | None, int | None]:
    details = usage.completion_tokens_details
    return details.accepted_prediction_tokens, details.rejected_prediction_tokens


CALLS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 1.0, "seed": 7},
    "several": {"temperature": 1.0, "seed": 7, "n": 2},
    "held": {"response_format": {"type": "json_object"}, "max_tokens": 60},
}


@pytest.mark.parametrize("name", CALLS)
def test_the_answer_is_that_without_and_guesses_are_in_its_usage(client: OpenAI, name: str) -> None:
    plain, fast = (chat(client, model, **CALLS[name]) for model in ("plain", "fast"))
    texts = [[(one.message.content, one.finish_reason) for one in each.choices]
             for each in (plain, fast)]  # fmt: skip
    assert texts[0] == texts[1] or name == "several", "several rows share their arithmetic"
    assert predictions(plain.usage) == (None, None)
    assert plain.usage.completion_tokens == fast.usage.completion_tokens or name == "several"
    accepted, rejected = predictions(fast.usage)
    assert accepted is not None
    assert rejected is not None
    assert accepted + rejected > 0
    assert accepted <= fast.usage.completion_tokens


def test_a_stop_string_ends_the_count_of_what_was_accepted(client: OpenAI) -> None:
    text = chat(client, "plain").choices[0].message.content
    middle = len(text) // 2
    plain, fast = (chat(client, name, stop=text[middle : middle + 6]) for name in ("plain", "fast"))
    assert plain.choices[0].message.content == fast.choices[0].message.content
    assert fast.choices[0].finish_reason == "stop"
    assert 0 < len(fast.choices[0].message.content) <= middle
    assert plain.usage.completion_tokens == fast.usage.completion_tokens
    accepted, _ = predictions(fast.usage)
    assert accepted is not None
    assert 0 < accepted < fast.usage.completion_tokens


def test_a_stream_tells_the_same_counts(client: OpenAI) -> None:
    chunks = list(chat(client, "fast", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    plain = chat(client, "plain")
    assert text == plain.choices[0].message.content
    accepted, rejected = predictions(chunks[-1].usage)
    assert accepted
    assert rejected


def test_completions_count_them_too_and_other_dialects_stay_as_they_are(
    server: ServerProcess,
) -> None:
    def ask(path: str, **body: Any) -> Any:
        reply = server.http.post(server.url + path, json={"model": "fast", **body})
        assert reply.status_code == 200, reply.text
        return reply.json()["usage"]

    two = ask("/v1/completions", prompt=["def main", "import os"], max_tokens=12, temperature=0)
    assert two["completion_tokens"] == 24
    assert two["completion_tokens_details"]["accepted_prediction_tokens"] <= 24
    responses = ask("/v1/responses", input="def main", max_output_tokens=12)
    assert responses["output_tokens_details"] == {"reasoning_tokens": 0}
    messages = ask("/v1/messages", messages=MESSAGES, max_tokens=12)
    assert "prediction" not in json.dumps(messages)


def test_probabilities_are_refused_by_name(server: ServerProcess) -> None:
    body = {"model": "fast", "messages": MESSAGES, "logprobs": True}
    reply = server.http.post(f"{server.url}/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logprobs")


def counted(server: ServerProcess, what: str) -> dict[str, float]:
    text = server.http.get(f"{server.url}/metrics").text
    name = rf"opta_lmx_spec_decode_num_{what}_tokens_total"
    found = re.findall(rf'^{name}{{model="(\w+)"}} (\S+)$', text, re.MULTILINE)
    return {model: float(count) for model, count in found}


def test_metrics_give_the_acceptance_rate(server: ServerProcess, client: OpenAI) -> None:
    before = [counted(server, what).get("fast", 0.0) for what in ("accepted", "draft")]
    accepted, rejected = predictions(chat(client, "fast").usage)
    assert accepted is not None
    assert rejected is not None
    after = [counted(server, what)["fast"] for what in ("accepted", "draft")]
    grown = [now - then for then, now in zip(before, after, strict=True)]
    assert grown == [accepted, accepted + rejected]
    assert "plain" not in counted(server, "draft")


@pytest.mark.parametrize(
    ("model", "reason", "param"),
    [
        ("odd", "its tokenizer is 'llama', the model's is 'gpt2'", "model"),
        ("folder", "runs on the mlx backend", "engine.overrides.folder.draft"),
    ],
)
def test_a_draft_that_cannot_be_used_is_no_silent_matter(
    server: ServerProcess, model: str, reason: str, param: str
) -> None:
    for path, body in (
        ("/admin/models/load", {"model": model}),
        ("/v1/chat/completions", {"model": model, "messages": MESSAGES}),
    ):
        reply = server.http.post(server.url + path, json=body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, "draft_refused", param)
        assert reason in error["message"]
