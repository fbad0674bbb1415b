"""A configured draft model: found in the catalogue, or refused by the setting's name."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.planner import Planner
from opta_lmx.models.store import ModelStore
from tests.support.tiny import tiny_llama
from tests.support.weights import small_gguf


def planner_of(folder: Path, aliases: dict[str, str] | None = None, **override: Any) -> Planner:
    store = ModelStore(folder / "models")
    store.sweep()
    for name in ("org/m", "org/small"):
        source = folder / f"{name[4:]}.gguf"
        source.write_bytes(small_gguf())
        store.add(source, name)
    settings = {"backend": "gguf", "overrides": {"org/m": override}}
    names = ModelsSettings(aliases=aliases or {})
    return Planner(store, EngineSettings.model_validate(settings), folder, names)


@pytest.mark.parametrize("ref", ["org/small", "small", "SMALL", "little", "small:gguf"])
def test_a_draft_is_found_as_any_model_is(tmp_path: Path, ref: str) -> None:
    planner = planner_of(tmp_path, {"little": "org/small"}, draft=ref)
    plan, alone = planner.plan("m"), planner.plan("small")
    load = asyncio.run(_prepared(plan))
    assert load.draft == str(planner.store.get("org/small").path)
    assert load.draft_tokens == 4
    assert plan.weights_bytes == 2 * alone.weights_bytes
    assert plan.need.weights == 2 * alone.need.weights
    assert asyncio.run(_prepared(alone)).draft == ""


def test_how_far_ahead_is_guessed_is_configured(tmp_path: Path) -> None:
    plan = planner_of(tmp_path, draft="small", draft_tokens=9).plan("m")
    assert asyncio.run(_prepared(plan)).draft_tokens == 9


def test_guessing_ahead_needs_somebody_who_guesses() -> None:
    with pytest.raises(ValueError, match="needs a draft model"):
        EngineSettings.model_validate({"overrides": {"m": {"draft_tokens": 4}}})
    for count in (0, 65):
        with pytest.raises(ValueError, match="draft_tokens"):
            EngineSettings.model_validate(
                {"overrides": {"m": {"draft": "x", "draft_tokens": count}}}
            )


@pytest.mark.parametrize(
    ("ref", "draft", "reason"),
    [
        ("m:mlx", "small", "runs on the mlx backend, which has no draft models"),
        ("m", "nothing-like-it", "nothing-like-it"),
        ("m", "small:mlx", "'small:mlx' is not a GGUF file"),
        ("m", "org/folder", "'org/folder' is not a GGUF file"),
    ],
)
def test_what_cannot_draft_is_refused(tmp_path: Path, ref: str, draft: str, reason: str) -> None:
    planner = planner_of(tmp_path, draft=draft)
    planner.store.add(tiny_llama(), "org/folder")
    with pytest.raises(LmxError, match=reason) as caught:
        planner.plan(ref)
    error = caught.value
    assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "draft_refused")
    assert error.param == "engine.overrides.org/m.draft"


async def _prepared(plan: Any) -> Any:
    return await plan.prepare()
