"""A configured type of caches reaches the engine and the books, or is refused by its name."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.frames import Load
from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.planner import Planner
from opta_lmx.models.store import ModelStore
from tests.support.encoders import tiny_encoder_gguf
from tests.support.tiny import tiny_gguf, tiny_llama


def planner_of(folder: Path, **override: Any) -> Planner:
    store = ModelStore(folder / "models")
    store.sweep()
    store.add(tiny_gguf(), "m")
    store.add(tiny_llama(), "folder")
    store.add(tiny_encoder_gguf(), "vectors")
    names = ("m", "folder", "vectors")
    settings = {"backend": "gguf", "overrides": dict.fromkeys(names, override)}
    engine = EngineSettings.model_validate(settings)
    return Planner(store, engine, folder, memory=MemorySettings(budget_bytes=1 << 36))


def loaded(plan: Plan) -> Load:
    async def prepared() -> Load:
        return await plan.prepare()

    return asyncio.run(prepared())


def test_nothing_said_is_nothing_told(tmp_path: Path) -> None:
    assert "kv_type" not in loaded(planner_of(tmp_path).plan("m")).options


@pytest.mark.parametrize(("kv_type", "bits"), [("f16", 16), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_the_engine_and_the_books_follow(tmp_path: Path, kv_type: str, bits: float) -> None:
    usual = planner_of(tmp_path / "a", context=512).plan("m")
    planner = planner_of(tmp_path / "b", context=512, kv_type=kv_type)
    plan = planner.plan("m")
    assert loaded(plan).options["kv_type"] == kv_type
    assert plan.need.kv == usual.need.kv * bits / 16
    assert plan.need.weights == usual.need.weights
    fit = planner.appetite(planner.store.get("m"), "gguf").full(512, 8)
    assert fit.kv == plan.need.kv


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("folder", "'folder' runs on the mlx backend"),
        ("m:mlx", "'m' runs on the mlx backend"),
        ("vectors", "'vectors' makes no text"),
    ],
)
def test_where_it_cannot_be_it_is_refused(tmp_path: Path, ref: str, reason: str) -> None:
    planner = planner_of(tmp_path, kv_type="q8_0")
    with pytest.raises(LmxError, match=reason) as caught:
        planner.plan(ref)
    error = caught.value
    assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "kv_type_refused")
    assert error.param == f"engine.overrides.{ref.removesuffix(':mlx')}.kv_type"
    assert ('backend = "gguf"' in error.message) == (ref == "m:mlx")


def test_other_types_are_no_setting() -> None:
    for wrong in ("q2_k", "F16", "", 8):
        with pytest.raises(ValueError, match="kv_type"):
            EngineSettings.model_validate({"overrides": {"m": {"kv_type": wrong}}})


def test_options_hold_none() -> None:
    with pytest.raises(ValueError, match="options cannot hold kv_type"):
        EngineSettings.model_validate({"overrides": {"m": {"options": {"kv_type": "q4_0"}}}})
