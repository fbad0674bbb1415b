"""How a reference becomes a plan: names, windows, ways of writing, what loading means."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Speech
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.speaking import abilities_of
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.store import ModelStore
from tests.support.weights import small_gguf

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}<tool_call>"
THINKS = TOOLS + "{% if enable_thinking %}<think>{% endif %}</think>"
HARMONY = "<|channel|>analysis {{ reasoning_effort }} {% for t in tools %}{% endfor %}"


def planner_of(folder: Path, aliases: dict[str, str] | None = None, **engine: Any) -> Planner:
    store = ModelStore(folder / "models")
    store.sweep()
    if not store.list():
        (folder / "m.gguf").write_bytes(small_gguf())
        store.add(folder / "m.gguf", "org/m")
    settings = EngineSettings.model_validate({"backend": "gguf", **engine})
    return Planner(store, settings, folder, ModelsSettings(aliases=aliases or {}))


def test_every_name_of_a_model_has_one_id(tmp_path: Path) -> None:
    planner = planner_of(tmp_path, {"mine": "m", "other": "org/m:mlx"})
    for ref in ("org/m", "m", "ORG/M", "mine", "provider/org/m", "m.gguf", "org/m:gguf"):
        assert planner.canonical(ref) == "org/m"
    assert planner.canonical("other") == planner.canonical("m:mlx") == "org/m:mlx"
    assert planner.aliases == ("mine", "other")


def test_what_is_resolved_is_forgotten_with_its_model(tmp_path: Path) -> None:
    planner = planner_of(tmp_path)
    assert planner.canonical("m") == "org/m"
    planner.store.delete("org/m")
    with pytest.raises(LmxError) as caught:
        planner.canonical("m")
    assert caught.value.code == "model_not_found"
    planner.store.add(tmp_path / "m.gguf", "two/m")
    assert planner.canonical("m") == "two/m"


@pytest.mark.parametrize(
    ("configured", "asked", "window"),
    [
        (0, None, 0),
        (0, 1024, 1024),
        (0, 1_000_000, 2048),
        (512, None, 512),
        (512, 256, 256),
        (512, 4096, 512),
    ],
)
def test_the_window_is_what_was_asked_for_within_the_models(
    tmp_path: Path, configured: int, asked: int | None, window: int
) -> None:
    plan = planner_of(tmp_path, context=configured).plan("m", asked)
    load = asyncio.run(_prepared(plan))
    assert load.context == window
    assert plan.context == (min(window, asked) if asked else 0)


async def _prepared(plan: Any) -> Any:
    return await plan.prepare()


def test_loading_means_weights_and_for_mlx_a_conversion(tmp_path: Path) -> None:
    planner = planner_of(tmp_path)
    info = planner.store.get("org/m").info
    assert planner.plan("m").work.weights_bytes == info.weights_bytes > 0
    assert planner.plan("m").convert_bytes == 0
    assert planner.plan("m:mlx").convert_bytes == info.weights_bytes


@pytest.mark.parametrize("field", ["tool_dialect", "reasoning"])
def test_a_way_of_writing_nobody_reads_is_refused_at_the_start(tmp_path: Path, field: str) -> None:
    with pytest.raises(LmxError) as caught:
        planner_of(tmp_path, overrides={"org/m": {field: "esperanto"}})
    assert (caught.value.code, caught.value.param) == ("invalid_config", "engine.overrides")
    assert "esperanto" in caught.value.message


@pytest.mark.parametrize("template", ["absent", "bytes", "a\0b", "~nobody.at.all/x"])
def test_a_template_that_cannot_be_read_is_the_operators_to_mend(
    tmp_path: Path, template: str
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{{ x }}")
    path = template if template.startswith("~") else str(tmp_path / template)
    with pytest.raises(LmxError) as caught:
        planner_of(tmp_path, overrides={"org/m": {"template": path}}).plan("m")
    assert (caught.value.code, caught.value.param) == ("invalid_config", "engine.overrides")


def test_an_override_replaces_what_the_template_tells(tmp_path: Path) -> None:
    plain = planner_of(tmp_path).plan("m")
    assert asyncio.run(_prepared(plain)).speech is None
    own = {"org/m": {"tool_dialect": "hermes", "reasoning": ""}}
    spoken = planner_of(tmp_path, overrides=own).plan("m")
    assert asyncio.run(_prepared(spoken)).speech == Speech("hermes", "")


@pytest.mark.parametrize(
    ("own", "kept"), [({}, 1000), ({"slot_bytes": 7}, 7), ({"slot_dir": ""}, 1000)]
)
def test_disk_for_processed_prompts_is_for_llama_cpp_too(
    tmp_path: Path, own: dict[str, Any], kept: int
) -> None:
    overrides = {"org/m": {"options": own}}
    planner = planner_of(tmp_path, overrides=overrides, prefix_cache_disk_bytes=1000)
    options = asyncio.run(_prepared(planner.plan("m"))).options
    folder = own.get("slot_dir", str(tmp_path / "cache" / "slots"))
    assert options == {"slot_dir": folder, "slot_bytes": kept}
    assert asyncio.run(_prepared(planner_of(tmp_path).plan("m"))).options == {}


def info(template: str | None, **more: Any) -> ModelInfo:
    return ModelInfo("gguf", "llama", 0, "F16", 0, 0, 0, 0, 0, chat_template=template, **more)


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        (None, False, ()),
        ("You may use tools. {{ messages }}", False, ()),
        (TOOLS, True, ()),
        (THINKS, True, ("on", "off")),
        ("<think>", False, ("on",)),
        (HARMONY, True, ("medium", "low", "high")),
    ],
)
def test_a_template_tells_what_its_model_was_made_for(
    template: str | None, tools: bool, reasoning: tuple[str, ...]
) -> None:
    found = abilities_of(info(template), EngineSettings().for_model("m"))
    assert (found.tools, found.reasoning) == (tools, reasoning)


def test_what_makes_vectors_calls_no_tools() -> None:
    found = abilities_of(info(THINKS, embedding=True), EngineSettings().for_model("m"))
    assert (found.tools, found.reasoning) == (False, ())


def test_an_operator_may_vouch_for_a_model() -> None:
    settings = EngineSettings.model_validate({"overrides": {"m": {"tool_dialect": "hermes"}}})
    assert abilities_of(info(None), settings.for_model("m")).tools
    settings = EngineSettings.model_validate({"overrides": {"m": {"reasoning": "think"}}})
    assert abilities_of(info(None), settings.for_model("m")).reasoning == ("on",)
