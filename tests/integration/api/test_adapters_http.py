"""Adapters as callers and operators see them: `model:adapter` on every surface, and what is cached.

One server runs the tiny Llama on both engines; the GGUF one is held against models into which the
same adapters were merged.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.backends.frames import Ready
from opta_lmx.engine.caching import CacheLimits
from opta_lmx.engine.prefix import CacheRules
from opta_lmx.models.store import ModelStore
from tests.support import gguf_adapters
from tests.support.adapters import tiny_adapter, write_adapter
from tests.support.prefix_server import PrefixServer, prefix_server
from tests.support.tiny import tiny_gguf, tiny_llama

pytestmark = pytest.mark.engine
QUESTION = " ".join(f"def main_{n}(): import os and go on with the rest of it" for n in range(25))
"""Long enough to be worth keeping."""
TURNS = {"messages": [{"role": "user", "content": QUESTION}]}
TOKENS = 12
MODELS = ("tiny", "one")
SECTIONS: dict[str, Any] = {
    "engine": {
        "backend": "gguf",
        "threads": 1,
        "slots": 3,
        "context": 4096,
        "prefix_cache_bytes": 2**28,
        "prefix_cache_disk_bytes": 2**29,
    },
}
BAD = {"lost": "nowhere", "odd": "words.gguf"}


def sections(home: Path) -> dict[str, Any]:
    """The configuration; the adapter `math` of `tiny` lies in the home, where it may change."""
    files = {name: str(gguf_adapters.tiny_adapter(n)) for n, name in enumerate(("math", "law"))}
    folders = {"math": "own/math", "law": str(tiny_adapter("law"))}
    models = {
        "adapters": {
            "tiny": folders,
            "one": files,
            **{name: {"bad": path} for name, path in BAD.items()},
        },
        "aliases": {"lawyer": "tiny:law"},
    }
    if not (home / "own").exists():
        shutil.copytree(tiny_adapter("math"), home / "own" / "math")
        (home / "words.gguf").write_bytes(tiny_gguf().read_bytes())
    return {**SECTIONS, "models": models}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    store = ModelStore(folder / "models")
    store.sweep()
    sources = {"tiny": tiny_llama(), "one": tiny_gguf(), "lost": tiny_llama(), "odd": tiny_gguf()}
    sources |= {f"merged-{name}": gguf_adapters.merged_gguf(n)
                for n, name in enumerate(("math", "law"))}  # fmt: skip
    for name, source in sources.items():
        store.add(source, name)
    (folder / "presets").mkdir()
    (folder / "presets" / "counsel.toml").write_text('model = "tiny:law"\n')
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[PrefixServer]:
    with prefix_server(home, **sections(home)) as running:
        yield running


def ask(server: PrefixServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def chat(server: PrefixServer, model: str, question: str = QUESTION) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}]
    body = {"model": model, "messages": turns, "max_tokens": TOKENS, "temperature": 0}
    return ask(server, "/v1/chat/completions", body)


def said(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def cached(answer: dict[str, Any]) -> int:
    count: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


def test_a_prompt_is_cached_for_its_own_adapter_alone(server: PrefixServer) -> None:
    for model in MODELS:
        for name in (model, f"{model}:math", f"{model}:law"):
            # From its first words on it is no other test's, whichever of them ran before.
            question = f"Its own, of nobody else: {QUESTION}"
            first, second = chat(server, name, question), chat(server, name, question)
            assert said(first) == said(second)
            # All prompts of an adapter share how the template begins, and no more than that.
            assert cached(first) * 20 < cached(second), name


def test_adapters_change_the_text_and_stand_beside_each_other(server: PrefixServer) -> None:
    for model in MODELS:
        names = [model, f"{model}:math", f"{model}:law"]
        alone = {name: said(chat(server, name)) for name in names}
        assert len(set(alone.values())) == 3
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda name: said(chat(server, name)), names * 2))
        assert answers == [alone[name] for name in names] * 2


def test_llama_cpps_text_is_that_of_the_merged_model(server: PrefixServer) -> None:
    for name in ("math", "law"):
        assert said(chat(server, f"one:{name}")) == said(chat(server, f"merged-{name}"))


def _responses(answer: dict[str, Any]) -> str:
    text: str = answer["output"][-1]["content"][0]["text"]
    return text


Surface = tuple[str, dict[str, Any], Callable[[dict[str, Any]], str]]
SURFACES: dict[str, Surface] = {
    "chat": ("/v1/chat/completions", {**TURNS, "max_tokens": TOKENS, "temperature": 0}, said),
    "responses": (
        "/v1/responses",
        {"input": QUESTION, "max_output_tokens": TOKENS, "temperature": 0},
        _responses,
    ),
    "messages": (
        "/v1/messages",
        {**TURNS, "max_tokens": TOKENS, "temperature": 0},
        lambda answer: answer["content"][0]["text"],
    ),
    "ollama": (
        "/api/chat",
        {**TURNS, "stream": False, "options": {"num_predict": TOKENS, "temperature": 0}},
        lambda answer: answer["message"]["content"],
    ),
    "completions": (
        "/v1/completions",
        {
            "prompt": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
            "max_tokens": TOKENS,
            "temperature": 0,
        },
        lambda answer: answer["choices"][0]["text"],
    ),
}


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_understands_the_name(server: PrefixServer, surface: str) -> None:
    path, body, text_of = SURFACES[surface]
    for model in MODELS:
        expected = said(chat(server, f"{model}:law"))
        names = [f"{model}:law", f"{model}:LAW", f"local/{model}:law"]
        if model == "tiny":
            names += ["tiny:mlx:law", "lawyer", "preset:counsel"]
        for name in names:
            answer = ask(server, path, {"model": name, **body})
            assert text_of(answer) == expected, name
            assert answer["model"] == name
    for name, listed in (("tiny:poems", "'law', 'math'"), ("one:gguf:poems", "'law', 'math'")):
        reply = server.http.post(path, json={"model": name, **body})
        assert reply.status_code == 404, reply.text
        assert "has no adapter 'poems'" in reply.text
        assert listed in reply.text


def test_adapters_are_listed_with_their_parent(server: PrefixServer) -> None:
    listed = {one["id"]: one for one in server.http.get("/v1/models").json()["data"]}
    for model in MODELS:
        assert listed[model]["x_opta"]["adapters"] == ["law", "math"]
        assert "parent" not in listed[model]
        for name in ("law", "math"):
            one = listed[f"{model}:{name}"]
            assert (one["parent"], one["x_opta"]["adapters"]) == (model, [])
            assert server.http.get(f"/v1/models/{model}:{name}").json() == one
    assert listed["tiny:law"]["x_opta"]["aliases"] == ["lawyer"]
    assert "parent" not in listed["preset:counsel"]
    assert server.http.get("/v1/models/tiny:poems").status_code == 404
    tags = [one["name"] for one in server.http.get("/api/tags").json()["models"]]
    assert {"tiny:law", "one:math"} <= set(tags)


def test_an_adapter_is_no_second_copy_of_its_model(server: PrefixServer) -> None:
    ask(server, "/admin/models/load", {"model": "tiny:math"})
    status = server.http.get("/admin/status").json()["models"]
    loaded = {one["id"]: one["adapters"] for one in status if not one["id"].startswith("merged")}
    assert loaded == {"tiny": ["law", "math"], "one": ["law", "math"]}


def test_the_fingerprint_names_the_adapter(server: PrefixServer) -> None:
    names = ("tiny", "tiny:math", "tiny:law")
    prints = {name: chat(server, name)["system_fingerprint"] for name in names}
    assert len(set(prints.values())) == 3
    assert chat(server, "lawyer")["system_fingerprint"] == prints["tiny:law"]


@pytest.mark.parametrize("model", BAD)
def test_an_adapter_that_cannot_be_used_is_told_by_name(server: PrefixServer, model: str) -> None:
    for path, body in (
        ("/admin/models/load", {"model": model}),
        ("/v1/chat/completions", {"model": f"{model}:bad", **TURNS}),
    ):
        reply = server.http.post(path, json=body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (400, "adapter_refused"), reply.text
        assert error["param"] == f"models.adapters.{model}.bad"
        assert "'bad'" in error["message"]


def test_a_restart_finds_what_is_still_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one version of an adapter left on disk is not used for the next one."""
    usual = CacheLimits.rules

    def eager(self: CacheLimits, ready: Ready) -> CacheRules | None:
        rules = usual(self, ready)
        # However fast the machine is, nothing is too cheap to be written.
        return None if rules is None else msgspec.structs.replace(rules, spill_min_s=0.0)

    monkeypatch.setattr(CacheLimits, "rules", eager)
    store = ModelStore(tmp_path / "models")
    store.sweep()
    store.add(tiny_llama(), "tiny")
    configured = sections(tmp_path)
    configured["models"] = {"adapters": {"tiny": configured["models"]["adapters"]["tiny"]}}
    names = ("tiny", "tiny:math", "tiny:law")
    with prefix_server(tmp_path, **configured) as server:
        before = {name: said(chat(server, name)) for name in names}
    write_adapter(tmp_path / "own" / "math", 99)
    with prefix_server(tmp_path, **configured) as server:
        after = {name: chat(server, name) for name in names}
    assert [cached(after[name]) > 0 for name in names] == [True, False, True]
    assert said(after["tiny:math"]) not in before.values()
    assert [said(after[name]) == before[name] for name in names] == [True, False, True]
