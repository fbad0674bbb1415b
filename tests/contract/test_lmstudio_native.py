"""LM Studio's native interface as OpenClaw's own provider uses it, against the real program.

The requests are those the client was seen to send; the answers are read strictly by the shapes
that LM Studio documents.
"""

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import msgspec
import openai
import pytest

from tests.support.process import ServerProcess, running_server
from tests.support.starters import starter_settings

NODE = {"Authorization": "Bearer anything", "Accept": "*/*", "User-Agent": "node"}
GUIDED_SETUP_TOKENS = 16_384


class Config(msgspec.Struct, forbid_unknown_fields=True):
    context_length: int


class Instance(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    config: Config


class Quantization(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None
    bits_per_weight: float | None


class Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    allowed_options: list[str]
    default: str


class Capabilities(msgspec.Struct, forbid_unknown_fields=True):
    vision: bool
    trained_for_tool_use: bool
    reasoning: Reasoning | None = None


class Stored(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    publisher: str
    key: str
    display_name: str
    quantization: Quantization | None
    size_bytes: int
    params_string: str | None
    loaded_instances: list[Instance]
    max_context_length: int
    format: Literal["gguf", "mlx"] | None


class Embedder(Stored, tag="embedding"):
    pass


class Model(Stored, tag="llm"):
    architecture: str | None
    capabilities: Capabilities
    description: str | None


class Listed(msgspec.Struct, forbid_unknown_fields=True):
    models: list[Model | Embedder]


class Loaded(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["llm"]
    instance_id: str
    load_time_seconds: float
    status: Literal["loaded"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {
        **starter_settings(),
        "LMX_ENGINE__CONTEXT": "0",
        "LMX_MODELS__ALIASES": '{"gpt-4o" = "starter"}',
        "LMX_ENGINE__OVERRIDES": '{"starter" = {tool_dialect = "hermes"}}',
    }
    home = tmp_path_factory.mktemp("home")
    with running_server(home, "--model", "starter", **settings) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def listed(server: ServerProcess) -> dict[str, Model]:
    reply = httpx.get(f"{server.url}/api/v1/models", headers=NODE, timeout=30)
    assert reply.status_code == 200
    models = msgspec.json.decode(reply.content, type=Listed).models
    return {model.key: model for model in models if isinstance(model, Model)}


def prepared(server: ServerProcess, key: str, wanted: int) -> str:
    """The client's own way to an instance: what is loaded and large enough, else a load."""
    model = listed(server)[key]
    tokens = min(wanted, model.max_context_length)
    for instance in model.loaded_instances:
        if instance.config.context_length >= tokens:
            return instance.id
    reply = httpx.post(
        f"{server.url}/api/v1/models/load",
        headers=NODE,
        json={"model": key, "context_length": tokens},
        timeout=120,
    )
    assert reply.status_code == 200, reply.text
    return msgspec.json.decode(reply.content, type=Loaded).instance_id


def test_the_list_is_as_documented_and_true(server: ServerProcess) -> None:
    models = listed(server)
    starter = models["starter"]
    assert (starter.format, starter.architecture, starter.params_string) == (
        "gguf",
        "llama",
        "135M",
    )
    assert starter.quantization == Quantization("Q4_1", 4)
    assert starter.loaded_instances == [Instance("starter", Config(8192))]
    assert starter.max_context_length == 8192
    assert starter.capabilities == Capabilities(vision=False, trained_for_tool_use=True)
    long = models["starter-long"]
    assert (long.loaded_instances, long.max_context_length) == ([], 32_768)
    assert not long.capabilities.trained_for_tool_use  # its files hold no template at all


def test_a_turn_of_the_lmstudio_provider(server: ServerProcess) -> None:
    instance = prepared(server, "starter-long", GUIDED_SETUP_TOKENS)
    (loaded,) = listed(server)["starter-long"].loaded_instances
    assert loaded.id == instance
    assert loaded.config.context_length >= GUIDED_SETUP_TOKENS
    assert prepared(server, "starter-long", GUIDED_SETUP_TOKENS) == instance
    body: dict[str, Any] = {
        "model": instance,
        "messages": [
            {"role": "system", "content": "You are a personal assistant."},
            {"role": "user", "content": "Reply with exactly: pong"},
            {"role": "user", "content": [{"type": "text", "text": "no notes"}]},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 4,
    }
    reply = httpx.post(f"{server.url}/v1/chat/completions", headers=NODE, json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    assert reply.text.rstrip().endswith("data: [DONE]")
    unload = {"instance_id": instance}
    gone = httpx.post(f"{server.url}/api/v1/models/unload", json=unload, timeout=60)
    assert gone.json() == unload
    assert listed(server)["starter-long"].loaded_instances == []


def test_onboarding_finds_what_is_loaded(server: ServerProcess) -> None:
    found = [model.key for model in listed(server).values() if model.loaded_instances]
    assert found == ["starter"]


def test_the_older_list(server: ServerProcess) -> None:
    reply = httpx.get(f"{server.url}/api/v0/models").json()
    assert reply["object"] == "list"
    one = next(model for model in reply["data"] if model["id"] == "starter")
    assert one == {
        "id": "starter",
        "object": "model",
        "type": "llm",
        "publisher": "local",
        "arch": "llama",
        "compatibility_type": "gguf",
        "quantization": "Q4_1",
        "state": "loaded",
        "max_context_length": 8192,
        "loaded_context_length": 8192,
        "capabilities": ["tool_use"],
    }
    assert httpx.get(f"{server.url}/api/v0/models/starter").json() == one
    missing = httpx.get(f"{server.url}/api/v0/models/nobody")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "model_not_found")


def test_the_list_of_openai_has_its_own_fields_and_one_of_ours(
    server: ServerProcess, client: openai.OpenAI
) -> None:
    for raw in httpx.get(f"{server.url}/v1/models").json()["data"]:
        model = openai.types.Model.model_validate(raw, strict=True)
        assert set(model.model_extra or {}) == {"x_opta"}
    ours = client.models.retrieve("opta/STARTER").model_dump()
    assert ours["id"] == "starter"
    assert ours["x_opta"]["aliases"] == ["gpt-4o"]
    assert ours["x_opta"]["capabilities"] == {
        "chat": True,
        "completions": True,
        "streaming": True,
        "tools": True,
        "trained_for_tool_use": True,
        "reasoning": False,
        "embeddings": False,
        "rerank": False,
        "vision": False,
    }


@pytest.mark.parametrize(
    "name", ["gpt-4o", "opta/starter", "STARTER", "starter@q4_1", "starter-4bit"]
)
def test_a_model_answers_to_many_names(
    server: ServerProcess, client: openai.OpenAI, name: str
) -> None:
    answer = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=2
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert set(server.models()) == {"starter"}
