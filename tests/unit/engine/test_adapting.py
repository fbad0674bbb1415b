"""A model's adapters: which it has, what they change of its plan, and how they are refused."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine import adapting
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.planner import Planner
from opta_lmx.models.adapters import AdapterInfo, read_adapter
from opta_lmx.models.store import ModelStore
from tests.support import gguf_adapters
from tests.support.adapters import adapter_tensors, tiny_adapter, write_adapter
from tests.support.encoders import tiny_encoder
from tests.support.tiny import tiny_gguf, tiny_llama


def planner_of(folder: Path, adapters: dict[str, dict[str, Any]], **engine: Any) -> Planner:
    store = ModelStore(folder / "models")
    store.sweep()
    if not store.list():
        store.add(tiny_gguf(), "org/g")
        store.add(tiny_llama(), "m")
    models = ModelsSettings.model_validate(
        {"adapters": adapters, "aliases": {"lawyer": "m:law", "big": "org/g"}}
    )
    settings = EngineSettings.model_validate({"backend": "gguf", **engine})
    return Planner(store, settings, folder, models, MemorySettings(budget_bytes=1 << 34))


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    folders = {name: str(tiny_adapter(name)) for name in ("math", "law")}
    both = {"poems": str(gguf_adapters.tiny_adapter(1)), **folders}
    return planner_of(tmp_path, {"m": folders, "org/g": both, "org/g:mlx": {"extra": "extra"}})


def prepared(plan: Plan) -> Any:
    async def wait() -> Any:
        return await plan.prepare()

    return asyncio.run(wait())


def refusal(planner: Planner, ref: str) -> LmxError:
    with pytest.raises(LmxError) as caught:
        planner.plan(ref)
    return caught.value


@pytest.mark.parametrize(
    ("ref", "model", "adapter"),
    [
        ("m", "m", ""),
        ("m:math", "m", "math"),
        ("M:MATH", "m", "math"),
        ("any/m:law", "m", "law"),
        ("m:mlx:law", "m", "law"),
        ("lawyer", "m", "law"),
        ("lawyer:math", "m", "math"),
        ("g:poems", "org/g", "poems"),
        ("org/g:gguf:poems", "org/g", "poems"),
        ("org/g:mlx:law", "org/g:mlx", "law"),
        ("big:poems", "org/g", "poems"),
        ("big:mlx:extra", "org/g:mlx", "extra"),
    ],
)
def test_what_a_reference_means(planner: Planner, ref: str, model: str, adapter: str) -> None:
    assert (planner.canonical(ref), planner.adapter(ref)) == (model, adapter)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("m:poems", "The model 'm' has no adapter 'poems'. It has 'law', 'math'."),
        ("org/g:law", "It has 'poems'. 'org/g:mlx:law' is one."),
        ("org/g:mlx:poems", "It has 'extra', 'law', 'math'. 'org/g:gguf:poems' is one."),
        ("nothing:math", "The model 'nothing:math' does not exist."),
        ("m:math:mlx", "The model 'm:math:mlx' does not exist."),
        ("m:math:law", "does not exist"),
        ("m:../x", "does not exist"),
        ("m:", "does not exist"),
    ],
)
def test_what_is_not_there_is_said(planner: Planner, ref: str, words: str) -> None:
    for ask in (planner.canonical, planner.adapter, planner.plan):
        with pytest.raises(LmxError) as caught:
            ask(ref)
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
        assert words in caught.value.message


def test_a_model_without_adapters_says_so(tmp_path: Path) -> None:
    error = refusal(planner_of(tmp_path, {}), "m:latest")
    assert "has no adapter 'latest'. It has no adapters." in error.message


def test_no_engine_that_cannot_run_the_model_is_suggested(tmp_path: Path) -> None:
    files = {"poems": str(gguf_adapters.tiny_adapter(1)), "math": str(tiny_adapter("math"))}
    error = refusal(planner_of(tmp_path, {"m": files}), "m:poems")
    assert error.message.endswith("It has 'math'.")


def test_models_that_are_not_there_are_named_once(tmp_path: Path) -> None:
    path = str(tiny_adapter("law"))
    keys = ("m", "org/g:mlx", "M", "big", "gone:gguf", "org/gg")
    planner = planner_of(tmp_path, {key: {"law": path} for key in keys})
    assert planner.stray_adapters() == ["M", "big", "gone:gguf", "org/gg"]
    assert planner_of(tmp_path, {}).stray_adapters() == []


def test_headers_are_read_again_when_a_file_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path, *more: Any) -> AdapterInfo:
        reads.append(path)
        return read_adapter(path, *more)

    monkeypatch.setattr(adapting, "read_adapter", counted)
    write_adapter(tmp_path / "own", 1)
    planner = planner_of(tmp_path, {"m": {"own": "own"}})
    first = [planner.plan("m").adapters, planner.plan("m:own").adapters]
    planner.appetite(planner.store.get("m"), "mlx")
    assert (first[0], len(reads)) == (first[1], 1)
    write_adapter(tmp_path / "own", 2)
    assert planner.plan("m").adapters != first[0]
    assert len(reads) == 2


def test_what_needs_a_model_takes_no_adapter(planner: Planner) -> None:
    for ref in ("m:math", "lawyer"):
        with pytest.raises(LmxError) as caught:
            planner.reference(ref)
        assert (caught.value.code, caught.value.param) == ("adapter_not_applicable", "model")


def test_names_alike_but_for_case_are_told_apart(tmp_path: Path) -> None:
    path = str(tiny_adapter("law"))
    planner = planner_of(tmp_path, {"m": {"Law": path, "LAW": path}})
    assert planner.adapter("m:LAW") == "LAW"
    with pytest.raises(LmxError, match="'LAW', 'Law'"):
        planner.adapter("m:law")


def test_a_plan_carries_what_fits_its_backend(planner: Planner, tmp_path: Path) -> None:
    bare = planner_of(tmp_path, {})
    for ref, names in (("m", ["law", "math"]), ("org/g", ["poems"])):
        plan, alone = planner.plan(f"{ref}:{names[0]}"), bare.plan(ref)
        assert plan.ref == alone.ref == ref
        load = prepared(plan)
        assert sorted(load.adapters) == sorted(plan.adapters) == names
        assert all(Path(path).is_absolute() for path in load.adapters.values())
        assert len(set(plan.adapters.values())) == len(names)
        assert plan.need.weights > alone.need.weights
        assert (prepared(alone).adapters, alone.adapters) == ({}, {})
    stored = sum(a.nbytes for one in ("law", "math") for a in adapter_tensors(
        tiny_adapter(one)).values())  # fmt: skip
    assert planner.plan("m").weights_bytes - bare.plan("m").weights_bytes == stored
    entry = planner.store.get("m")
    wants, less = (each.appetite(entry, "mlx").reserved() for each in (planner, bare))
    assert wants.weights > less.weights


def test_relative_paths_start_in_the_home(tmp_path: Path) -> None:
    shutil.copytree(tiny_adapter("law"), tmp_path / "adapters" / "law")
    planner = planner_of(tmp_path, {"m": {"law": "adapters/law"}})
    assert prepared(planner.plan("m")).adapters == {"law": str(tmp_path / "adapters" / "law")}


def test_an_adapter_that_changed_is_not_loaded_under_its_old_name(tmp_path: Path) -> None:
    write_adapter(tmp_path / "own", 1)
    planner = planner_of(tmp_path, {"m": {"own": "own"}})
    before = planner.plan("m")
    prepared(before)
    write_adapter(tmp_path / "own", 2)
    with pytest.raises(LmxError) as caught:
        prepared(before)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "adapter_changed")
    assert "'own'" in caught.value.message
    after = planner.plan("m")
    prepared(after)
    assert after.adapters["own"] != before.adapters["own"]
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(LmxError, match="changed on disk"):
        prepared(after)


@pytest.mark.parametrize(
    ("adapters", "reason"),
    [
        ({"m": {"bad": "nowhere"}}, "there is no file adapter_config.json"),
        ({"m:mlx": {"bad": "some.gguf"}}, "there is no file some.gguf"),
        ({"m": {"bad": "~nobody-of-that-name/a"}}, "there is no file adapter_config.json"),
        ({"m:mlx": {"bad": "poems"}}, "not made for the mlx backend"),
        ({"m": {"good": "law", "bad": "x"}}, "there is no file"),
    ],
)
def test_one_that_cannot_be_used_is_told_by_its_setting(
    tmp_path: Path, adapters: dict[str, dict[str, Any]], reason: str
) -> None:
    sound = {"poems": gguf_adapters.tiny_adapter(1), "law": tiny_adapter("law")}
    placed = {model: {name: str(sound.get(path, path)) for name, path in own.items()}
              for model, own in adapters.items()}  # fmt: skip
    error = refusal(planner_of(tmp_path, placed), "m")
    assert (error.code, error.param) == ("adapter_refused", "models.adapters.m.bad")
    assert "the adapter 'bad' of model 'm' cannot be used" in error.message
    assert reason in error.message


def test_models_that_make_no_text_take_none(tmp_path: Path) -> None:
    planner = planner_of(tmp_path, {"e": {"law": str(tiny_adapter("law"))}})
    planner.store.add(tiny_encoder(), "e")
    error = refusal(planner, "e")
    assert (error.code, error.param) == ("adapter_refused", "models.adapters.e.law")
    assert "make text" in error.message


def test_a_draft_is_a_model_without_adapters(tmp_path: Path) -> None:
    files = {"poems": str(gguf_adapters.tiny_adapter(1))}
    overrides = {"org/g": {"draft": "org/g:poems"}}
    planner = planner_of(tmp_path, {"org/g": files}, overrides=overrides)
    error = refusal(planner, "org/g")
    assert error.code == "draft_refused"
    assert "names an adapter" in error.message
