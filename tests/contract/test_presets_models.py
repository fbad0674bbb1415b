"""A preset on real models says what its fields say, and its prompts are cached like others."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.process import ServerProcess

MODELS = ("tiny-mlx", "tiny-gguf")
FIELDS: dict[str, Any] = {
    "temperature": 1.5,
    "top_k": 40,
    "seed": 12345,
    "repetition_penalty": 1.2,
    "max_tokens": 24,
}
SYSTEM = " ".join(["You tell long stories of the sea and never of the land, whoever asks."] * 12)
ASKED = {"messages": [{"role": "user", "content": "Tell me."}]}


@pytest.fixture(scope="module", autouse=True)
def presets(tiny_server: ServerProcess) -> Iterator[None]:
    """`preset:tiny-…` are in the server's home while these tests run."""
    folder = tiny_server.log.parent / "presets"
    folder.mkdir()
    table = "\n".join(f"{name} = {value}" for name, value in FIELDS.items())
    for model in MODELS:
        text = f'model = "{model}"\nsystem_prompt = "{SYSTEM}"\n[parameters]\n{table}\n'
        (folder / f"{model}.toml").write_text(text)
    assert reload(tiny_server)["presets"] == sorted(MODELS)
    yield
    for model in MODELS:
        (folder / f"{model}.toml").unlink()
    assert reload(tiny_server)["removed"] == sorted(MODELS)


def reload(server: ServerProcess) -> dict[str, Any]:
    reply = server.http.post(f"{server.url}/admin/presets/reload")
    assert reply.status_code == 200, reply.text
    return reply.json()


def ask(server: ServerProcess, **body: Any) -> dict[str, Any]:
    reply = server.http.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("model", MODELS)
def test_a_preset_gives_the_text_of_its_fields(tiny_server: ServerProcess, model: str) -> None:
    explicit = [{"role": "system", "content": SYSTEM}, *ASKED["messages"]]
    plain = ask(tiny_server, model=model, messages=explicit, **FIELDS)
    preset = ask(tiny_server, model=f"preset:{model}", **ASKED)
    assert preset["model"] == f"preset:{model}"
    assert preset["choices"] == plain["choices"]
    assert preset["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    other = ask(tiny_server, model=f"preset:{model}", seed=1, **ASKED)
    assert other["choices"] != plain["choices"]


@pytest.mark.parametrize("model", MODELS)
def test_the_instructions_of_a_preset_are_processed_once(
    tiny_server: ServerProcess, model: str
) -> None:
    for word in ("first", "second"):
        turns = [{"role": "user", "content": f"Tell me the {word} of your stories."}]
        reply = ask(tiny_server, model=f"preset:{model}", messages=turns)
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > len(SYSTEM.split()) / 2, reply["usage"]


def test_presets_are_listed_with_the_models(tiny_server: ServerProcess) -> None:
    listed = tiny_server.http.get(f"{tiny_server.url}/v1/models").json()["data"]
    ids = [one["id"] for one in listed]
    assert ids[-2:] == ["preset:tiny-gguf", "preset:tiny-mlx"]
    one = tiny_server.http.get(f"{tiny_server.url}/v1/models/preset:tiny-gguf").json()
    assert one == listed[-2]
    assert one["x_opta"]["preset"] == {"model": "tiny-gguf", "description": ""}
    assert one["x_opta"]["format"] == "gguf"
    tags = tiny_server.http.get(f"{tiny_server.url}/api/tags").json()["models"]
    assert [one["name"] for one in tags][-2:] == ids[-2:]
    shown = tiny_server.http.post(f"{tiny_server.url}/api/show", json={"model": ids[-1]})
    assert shown.json()["details"]["format"] == "mlx"
    assert shown.json()["system"] == SYSTEM
    said = shown.json()["parameters"].splitlines()
    assert {"temperature 1.5", "seed 12345", "num_predict 24"} <= set(said)
    model = tiny_server.http.post(f"{tiny_server.url}/api/show", json={"model": "tiny-mlx"}).json()
    assert "system" not in model
    assert "seed 12345" not in model["parameters"]
    digests = {one["name"]: one["digest"] for one in tags}
    assert digests["preset:tiny-mlx"] != digests["tiny-mlx"]
