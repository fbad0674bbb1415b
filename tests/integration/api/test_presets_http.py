"""Presets over HTTP, in every dialect: what reaches the engine, and what the client is told."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import ollama
import openai
import pytest

from opta_lmx.core.types import SamplingParams
from tests.support.clients import strict_anthropic, strict_openai
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import WsClient

Json = dict[str, Any]
SYSTEM = "You explain."
FILES = {
    "tutor": f"""
        model = "echo"
        description = "Explains"
        alias = "Teacher"
        system_prompt = "{SYSTEM}"
        [parameters]
        temperature = 0.25
        top_k = 7
        seed = 11
        max_tokens = 3000
        reasoning_effort = "low"
    """,
    "short": """
        model = "words"
        [parameters]
        stop = ["three"]
        max_tokens = 3
    """,
    "long": 'model = "words"\nparameters.max_tokens = 8\n'
    "parameters.chat_template_kwargs.reasoning_effort = 5",
    "plain": 'model = "vectors"',
    "shaped": 'model = "vectors"\nsystem_prompt = "x"',
    "gone": 'model = "nowhere"',
    "penal": 'model = "plainly"\nparameters.repetition_penalty = 1.1',
    "bad": 'model = "echo"\ncolour = 1',
}
SCRIPTS: dict[str, dict[str, Any]] = {
    "echo": {"echo_submit": True, "context": 8192},
    "words": {"reply": "one two three four five six seven eight nine"},
    "vectors": {"kind": "embedding"},
    "plainly": {"lacks": ["penalties"]},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "presets").mkdir()
    for name, text in FILES.items():
        (home / "presets" / f"{name}.toml").write_text(text)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[LiveServer]:
    sections: dict[str, Any] = {
        "access": {"keys": [{"name": "capped", "key": "capped-key", "max_tokens": 5}]},
        "server": {"api_keys": ["unused"]},
    }
    with sim_server(home, SCRIPTS, **sections) as running:
        yield running


def post(server: LiveServer, path: str, body: Json, key: str = "unused") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=30)


def get(server: LiveServer, path: str) -> Json:
    reply = httpx.get(f"{server.url}{path}", headers={"Authorization": "Bearer unused"})
    assert reply.status_code == 200, reply.text
    return reply.json()


def chat(server: LiveServer, model: str, **more: Any) -> tuple[str, Json]:
    with strict_openai(server.url) as client:
        messages: Any = more.pop("messages", [{"role": "user", "content": "Why?"}])
        extra = {"top_k": more.pop("top_k")} if "top_k" in more else {}
        reply = client.chat.completions.create(
            model=model, messages=messages, extra_body=extra, **more
        )
    return reply.model, submit(reply.choices[0].message.content)


def messages(server: LiveServer, model: str, **more: Any) -> tuple[str, Json]:
    with strict_anthropic(server.url) as client:
        extra = {"top_k": more.pop("top_k")} if "top_k" in more else {}
        reply = client.messages.create(
            model=model,
            max_tokens=more.pop("max_tokens", 3500),
            messages=[{"role": "user", "content": "Why?"}],
            extra_body=extra | more,
        )
    (block,) = reply.content
    assert isinstance(block, anthropic.types.TextBlock)
    return reply.model, submit(block.text)


def responses(server: LiveServer, model: str, **more: Any) -> tuple[str, Json]:
    with strict_openai(server.url) as client:
        reply = client.responses.create(model=model, input="Why?", **more)
    return reply.model, submit(reply.output_text)


def ollama_chat(server: LiveServer, model: str, **more: Any) -> tuple[str, Json]:
    client = ollama.Client(server.url, headers={"Authorization": "Bearer unused"})
    turns = [{"role": "user", "content": "Why?"}]
    with contextlib.closing(client):
        reply = client.chat(model=model, messages=turns, options=more)
    return reply.model or "", submit(reply.message.content)


def socket(server: LiveServer, model: str, **more: Any) -> tuple[str, Json]:
    with WsClient(server.url, headers={"Authorization": "Bearer unused"}) as client:
        turns = [{"role": "user", "content": "Why?"}]
        client.ask("r", model, **{"messages": turns, "stream": False, **more})
        accepted, *_, done = client.answer("r")
    assert done["type"] == "chat.done", done
    return accepted["model"], submit(done["content"])


def submit(text: str | None) -> Json:
    """What the engine was given, with its prompt as text."""
    given = msgspec.json.decode(text or "")
    return {**given, "prompt": bytes(given["ids"]).decode()}


ALL = [chat, messages, responses, ollama_chat, socket]


@pytest.mark.parametrize("ask", ALL, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("model", ["preset:tutor", "teacher"])
def test_a_preset_fills_what_a_request_leaves_open(
    server: LiveServer, ask: Callable[..., tuple[str, Json]], model: str
) -> None:
    told, given = ask(server, model)
    assert told == model
    assert given["prompt"] == f"system: {SYSTEM}\nuser: Why?\n"
    used = given["sampling"]
    assert (used["temperature"], used["top_k"], used["seed"]) == (0.25, 7, 11)
    assert used["top_p"] == 1.0
    assert given["max_tokens"] == (3500 if ask is messages else 3000)


@pytest.mark.parametrize("ask", ALL, ids=lambda ask: ask.__name__)
def test_what_a_request_says_goes_first(
    server: LiveServer, ask: Callable[..., tuple[str, Json]]
) -> None:
    more: Json = {"temperature": 0.5} if ask is responses else {"temperature": 0.5, "top_k": 0}
    _, given = ask(server, "preset:tutor", **more)
    used = given["sampling"]
    assert (used["temperature"], used["seed"]) == (0.5, 11)
    assert used["top_k"] == more.get("top_k", 7)


def test_a_conversation_with_instructions_of_its_own(server: LiveServer) -> None:
    own = [{"role": "developer", "content": "Mine."}, {"role": "user", "content": "Why?"}]
    assert chat(server, "preset:tutor", messages=own)[1]["prompt"] == "system: Mine.\nuser: Why?\n"
    _, given = messages(server, "preset:tutor", system="Mine.")
    assert given["prompt"] == "system: Mine.\nuser: Why?\n"
    _, given = responses(server, "preset:tutor", instructions="Mine.")
    assert given["prompt"] == "system: Mine.\nuser: Why?\n"


def test_a_compacted_conversation_keeps_the_presets_instructions(server: LiveServer) -> None:
    said = [{"role": "user", "content": "Why?"}]
    body = {"model": "preset:short", "input": said}
    compacted = post(server, "/v1/responses/compact", body).json()["output"]
    assert len(compacted) == 1
    again = {"model": "preset:tutor", "input": [*compacted, *said]}
    reply = post(server, "/v1/responses", again).json()
    given = submit(reply["output"][0]["content"][0]["text"])
    assert given["prompt"].startswith(f"system: {SYSTEM}\n\nSummary of the conversation so far:\n")
    assert given["prompt"].endswith("eight nine\nuser: Why?\n")
    assert reply["temperature"] == 0.25


def test_a_response_tells_how_much_was_thought(server: LiveServer) -> None:
    for model, more, effort in (
        ("preset:tutor", {}, "low"),
        ("preset:tutor", {"reasoning": {"effort": "high", "summary": "auto"}}, "high"),
        ("preset:long", {}, None),
    ):
        reply = post(server, "/v1/responses", {"model": model, "input": "Why?", **more}).json()
        assert reply["reasoning"]["effort"] == effort


SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


@pytest.mark.parametrize(
    ("model", "more", "key", "limit"),
    [
        ("preset:tutor", {}, "unused", 3000),
        ("preset:tutor", {"max_output_tokens": 400, "temperature": 0.5}, "unused", 400),
        ("preset:tutor", {"top_p": 0.5}, "capped-key", 5),
        ("echo", {}, "capped-key", 5),
        ("echo", {}, "unused", None),
    ],
)
def test_a_response_tells_what_it_was_made_with(
    server: LiveServer, model: str, more: Json, key: str, limit: int | None
) -> None:
    """What the engine was given is what the object says, whoever said so."""
    body = {"model": model, "input": "Why?", **more}
    reply = post(server, "/v1/responses", body, key).json()
    assert reply["max_output_tokens"] == limit
    events = [
        msgspec.json.decode(line.removeprefix("data: "))
        for line in post(server, "/v1/responses", body | {"stream": True}, key).text.splitlines()
        if line.startswith("data: {")
    ]
    told = [event["response"] for event in events if "response" in event]
    assert len(told) == 3
    text = told[-1]["output"][0]["content"][0]["text"]
    if limit != 5:  # a longer one ends in the middle of what the engine says
        given = submit(text)
        assert limit in (None, given["max_tokens"])
        for response in (reply, *told):
            assert {name: response[name] for name in SAMPLING} == {
                name: given["sampling"][name] for name in SAMPLING
            }
    assert {one["max_output_tokens"] for one in told} == {limit}
    kept = get(server, f"/v1/responses/{reply['id']}")
    assert (kept["max_output_tokens"], kept["temperature"]) == (limit, reply["temperature"])


def test_a_response_tells_the_models_own_settings(tmp_path: Path) -> None:
    own = SamplingParams(temperature=0.4, top_p=0.9)
    with sim_server(tmp_path, {"echo": {"echo_submit": True}}) as server:
        server.resolver.sampling = own
        reply = post(server, "/v1/responses", {"model": "echo", "input": "Why?", "top_p": 1}).json()
        assert (reply["temperature"], reply["top_p"]) == (0.4, 1.0)


def test_a_compacted_conversation_with_instructions_of_its_own(server: LiveServer) -> None:
    said = [{"role": "user", "content": "Why?"}]
    body = {"model": "preset:short", "input": said}
    once = post(server, "/v1/responses/compact", body).json()["output"]
    twice = post(server, "/v1/responses/compact", body | {"input": [*once, *said]}).json()["output"]
    rules = [{"role": "developer", "content": "Mine."}]
    ruled = post(server, "/v1/responses/compact", body | {"input": [*rules, *said]}).json()
    for items, ours in (
        (twice, True),
        ([*twice, *rules], False),
        ([*rules, *once], False),
        (ruled["output"], False),
    ):
        again = {"model": "preset:tutor", "input": [*items, *said]}
        reply = post(server, "/v1/responses", again).json()
        given = submit(reply["output"][0]["content"][0]["text"])
        assert given["prompt"].startswith(f"system: {SYSTEM}\n\n") == ours, given["prompt"]
        assert given["prompt"].count("Summary of the conversation so far:") == 1
        assert ("Mine." in given["prompt"]) != ours


def test_empty_instructions_are_none_in_every_dialect(server: LiveServer) -> None:
    empty = [{"role": "system", "content": ""}, {"role": "user", "content": "Why?"}]
    prompts = [
        chat(server, "preset:tutor", messages=empty)[1]["prompt"],
        messages(server, "preset:tutor", system="")[1]["prompt"],
        responses(server, "preset:tutor", instructions="")[1]["prompt"],
    ]
    body = {"model": "preset:tutor", "system": "", "prompt": "Why?", "stream": False}
    prompts.append(submit(post(server, "/api/generate", body).json()["response"])["prompt"])
    assert set(prompts) == {f"system: {SYSTEM}\nuser: Why?\n"}


def test_what_an_engine_lacks_and_a_preset_asks_for(server: LiveServer) -> None:
    body: Json = {"model": "preset:penal", "messages": [{"role": "user", "content": "Why?"}]}
    for more, param in (({}, "model"), ({"repetition_penalty": 1.3}, "repetition_penalty")):
        reply = post(server, "/v1/chat/completions", body | more)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, param)
        assert ("preset 'penal'" in error["message"]) == (param == "model")


def test_a_fingerprint_changes_with_the_preset(server: LiveServer, home: Path) -> None:
    def fingerprint(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "Why?"}], "seed": 1}
        return post(server, "/v1/chat/completions", body).json()["system_fingerprint"]

    first = fingerprint("preset:long")
    assert first != fingerprint("words")
    try:
        (home / "presets" / "long.toml").write_text(FILES["long"] + "\ndescription = 'Long'")
        assert post(server, "/admin/presets/reload", {}).json()["changed"] == ["long"]
        assert fingerprint("preset:long") == first
        (home / "presets" / "long.toml").write_text(FILES["long"].replace("8", "7"))
        post(server, "/admin/presets/reload", {})
        assert fingerprint("preset:long") != first
    finally:
        (home / "presets" / "long.toml").write_text(FILES["long"])
        post(server, "/admin/presets/reload", {})


def test_stop_strings_and_lengths(server: LiveServer) -> None:
    turns = [{"role": "user", "content": "Why?"}]
    asked = {"model": "preset:short", "messages": turns}
    for more, text, finish in (
        ({}, "one two ", "stop"),
        ({"stop": []}, "one two three ", "length"),
        ({"stop": ["two"]}, "one ", "stop"),
        ({"stop": [], "max_tokens": 4}, "one two three four ", "length"),
    ):
        choice = post(server, "/v1/chat/completions", asked | more).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, finish)


def test_the_lower_of_a_keys_cap_and_a_presets_bound(server: LiveServer) -> None:
    turns = [{"role": "user", "content": "Why?"}]
    for model, length in (("preset:short", 3), ("preset:long", 5)):
        body = {"model": model, "messages": turns, "stop": []}
        reply = post(server, "/v1/chat/completions", body, "capped-key").json()
        assert reply["usage"]["completion_tokens"] == length, reply


def test_text_is_continued_as_it_stands(server: LiveServer) -> None:
    with strict_openai(server.url) as client:
        reply = client.completions.create(model="preset:tutor", prompt=["Once", "Twice"])
    assert reply.model == "preset:tutor"
    for choice, prompt in zip(reply.choices, ("Once", "Twice"), strict=True):
        given = submit(choice.text)
        assert (given["prompt"], given["max_tokens"]) == (prompt, 3000)
        assert given["sampling"]["seed"] == 11


def test_counts_hold_the_presets_instructions(server: LiveServer) -> None:
    tokens = len(f"system: {SYSTEM}\nuser: Why?\n")
    with strict_anthropic(server.url) as client:
        turns: Any = [{"role": "user", "content": "Why?"}]
        counted = client.messages.count_tokens(model="preset:tutor", messages=turns)
    assert counted.input_tokens == tokens
    body = {"model": "preset:tutor", "input": "Why?"}
    assert post(server, "/v1/responses/input_tokens", body).json()["input_tokens"] == tokens


def test_vectors_and_presets(server: LiveServer) -> None:
    for model, code in (
        ("preset:tutor", "model_not_embedding"),
        ("preset:shaped", "preset_not_applicable"),
    ):
        reply = post(server, "/v1/embeddings", {"model": model, "input": "x"})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, code, "model")
    reply = post(server, "/v1/embeddings", {"model": "preset:plain", "input": "x"})
    assert (reply.status_code, reply.json()["model"]) == (200, "preset:plain")
    body = {"model": "preset:plain", "messages": [{"role": "user", "content": "Why?"}]}
    assert post(server, "/v1/chat/completions", body).json()["error"]["code"] == "model_not_chat"


def test_unknown_presets(server: LiveServer) -> None:
    with strict_openai(server.url) as client, pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="preset:tuotr", input="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "'gone', 'long', 'penal', 'plain', 'shaped', 'short', 'tutor'" in caught.value.message
    with strict_openai(server.url) as client, pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="preset:gone", input="x")
    assert "Preset 'gone' asks for it" in caught.value.message


def test_models_can_be_loaded_by_presets(server: LiveServer) -> None:
    loaded = post(server, "/api/v1/models/load", {"model": "preset:short"}).json()
    assert loaded["instance_id"] == "words"
    assert post(server, "/admin/models/load", {"model": "Teacher"}).json()["model"] == "echo"
    reply = post(server, "/api/chat", {"model": "preset:tutor:latest", "messages": []})
    assert (reply.status_code, reply.json()["done_reason"]) == (200, "load")


def test_operators_see_and_reload_them(server: LiveServer, home: Path) -> None:
    listed = get(server, "/admin/presets")
    names = [one["name"] for one in listed["data"]]
    assert names == ["gone", "long", "penal", "plain", "shaped", "short", "tutor"]
    (refused,) = listed["refused"]
    assert (refused["file"], refused["param"]) == ("bad.toml", "colour")
    tutor = get(server, "/admin/presets/tutor")
    assert tutor == listed["data"][-1]
    assert tutor == {
        "id": "preset:tutor",
        "name": "tutor",
        "description": "Explains",
        "model": "echo",
        "alias": "Teacher",
        "parameters": {
            "temperature": 0.25,
            "top_k": 7,
            "seed": 11,
            "max_tokens": 3000,
            "reasoning_effort": "low",
        },
        "system_prompt": SYSTEM,
        "warm": False,
        "serves": "echo",
        "error": None,
    }
    assert listed["data"][0]["error"]["code"] == "model_not_found"
    missing = httpx.get(
        f"{server.url}/admin/presets/none", headers={"Authorization": "Bearer unused"}
    )
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "preset_not_found")
    assert httpx.get(f"{server.url}/admin/presets").status_code == 401

    (home / "presets" / "short.toml").write_text("model = ")
    (home / "presets" / "fresh.toml").write_text('model = "words"\nwarm = true')
    (home / "presets" / "gone.toml").unlink()
    result = post(server, "/admin/presets/reload", {}).json()
    assert result["presets"] == ["fresh", "long", "penal", "plain", "shaped", "short", "tutor"]
    assert (result["added"], result["removed"], result["kept"]) == (["fresh"], ["gone"], ["short"])
    assert [one["file"] for one in result["refused"]] == ["bad.toml", "short.toml"]
    assert result["restart_needed"] == ["words"]
    body = {"model": "preset:fresh", "messages": [{"role": "user", "content": "Why?"}]}
    assert post(server, "/v1/chat/completions", body).status_code == 200
    (home / "presets" / "short.toml").write_text(FILES["short"])
    (home / "presets" / "fresh.toml").unlink()
    assert post(server, "/admin/presets/reload", {}).json()["changed"] == []


def test_a_warm_preset_has_its_model_loaded(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "ready.toml").write_text('model = "words"\nwarm = true')
    with sim_server(tmp_path, {"words": {}}) as running:
        wait_until(lambda: running.status("words").get("state") == "ready")
