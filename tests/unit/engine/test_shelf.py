"""For what a stored model must stay; the disk is not asked before that is clear."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opta_lmx.config.sections.engine import EngineSettings, ModelOverride
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.probing import Prober
from opta_lmx.engine.quantise_jobs import Records, Wish
from opta_lmx.engine.quantise_workshop import Workshop
from opta_lmx.engine.quantising import Quantising
from opta_lmx.engine.shelf import Shelf
from opta_lmx.models.store import ModelStore
from tests.support.asynchronous import in_loop
from tests.support.tiny import tiny_llama
from tests.support.waiting import until


async def _at_once() -> None:
    """A book that is written already."""


def shelf(
    *,
    loaded: str = "",
    drafts: str = "",
    active: str = "",
    use: str = "",
    held: list[str] | None = None,
) -> Shelf:
    """A shelf of which nothing is on disk: whatever gets as far as that is `deleted`."""

    def delete(name: str) -> int:
        return len(name)

    def refuse_leaving(name: str) -> None:
        return None

    held = [] if held is None else held
    status = [SimpleNamespace(id=loaded), SimpleNamespace(id="in-quarantine")]
    planner: Any = SimpleNamespace(
        store=SimpleNamespace(delete=delete),
        draft_of=lambda name: drafts if loaded else None,
        leaving=set(),
        refuse_leaving=refuse_leaving,
    )
    engine: Any = SimpleNamespace(
        status=lambda: status if loaded else status[1:],
        find=lambda model: model if model == loaded else None,
        recovery=SimpleNamespace(
            health=SimpleNamespace(known=lambda: list(held), reset=held.remove)
        ),
    )
    running = [SimpleNamespace(model=active, status="running")] if active else []
    downloads: Any = SimpleNamespace(active=lambda: running, list=lambda: running, saved=_at_once)
    puller: Any = SimpleNamespace(model_name=lambda ref: ref.partition("@")[0])
    return Shelf(planner, engine, downloads, puller, (lambda name: use or None,))


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ({"loaded": "org/m"}, "model_loaded"),
        ({"loaded": "org/m:mlx"}, "model_loaded"),
        ({"loaded": "other", "drafts": "org/m"}, "model_loaded"),
        ({"active": "org/m@main"}, "model_downloading"),
        ({"use": "being probed"}, "model_in_use"),
    ],
)
@in_loop
async def test_a_model_in_use_stays(why: dict[str, str], code: str) -> None:
    with pytest.raises(LmxError) as refused:
        await shelf(**why).delete("org/m")
    assert refused.value.code == code
    assert "org/m" in refused.value.message


@pytest.mark.parametrize("why", [{}, {"loaded": "other"}, {"active": "org/other"}])
@in_loop
async def test_any_other_goes(why: dict[str, str]) -> None:
    assert await shelf(**why).delete("org/m") == len("org/m")
    assert await shelf(**why).delete("in-quarantine") == len("in-quarantine")


@in_loop
async def test_what_was_held_against_a_model_goes_with_it() -> None:
    held = ["org/m", "org/m:mlx", "org/other"]
    await shelf(held=held).delete("org/m")
    assert held == ["org/other"]


@pytest.mark.parametrize("name", ["", "..", "../m", "/m", "a/b/c", "m:mlx", "a\0b", "m/"])
@in_loop
async def test_only_names_get_as_far_as_the_disk(name: str) -> None:
    with pytest.raises(LmxError) as refused:
        await shelf().delete(name)
    assert refused.value.code == "invalid_model_name"


@in_loop
async def test_what_is_being_deleted_is_begun_by_nobody(tmp_path: Path) -> None:
    """Not loaded, not for a model it drafts for, nor probed, quantised, or deleted twice."""
    began, go_on = threading.Event(), threading.Event()

    class Slow(ModelStore):
        def delete(self, name: str) -> int:
            began.set()
            assert go_on.wait(10)
            return super().delete(name)

    store = Slow(tmp_path / "models")
    for name in ("m", "big"):
        store.add(tiny_llama(), name)
    settings = EngineSettings(overrides={"big": ModelOverride(draft="m")})
    planner = Planner(store, settings, tmp_path)
    none: Any = SimpleNamespace(active=list, list=list, saved=_at_once)
    engine: Any = SimpleNamespace(
        status=list, recovery=SimpleNamespace(health=SimpleNamespace(known=list))
    )
    telemetry, clock = NullTelemetry(), SystemClock()
    ours = Shelf(planner, engine, none, none)
    prober = Prober(engine, planner, tmp_path, (clock, telemetry))
    jobs = Quantising(Workshop(planner, tmp_path), Records(None), 60, telemetry, clock)

    async def plan(ref: str) -> None:
        planner.plan(ref)

    deleting = asyncio.create_task(ours.delete("m"))
    await until(began.is_set)
    for attempt in (
        plan("m"),
        plan("big"),
        prober.probe("m", None, 1.0),
        jobs.start(Wish("m")),
        ours.delete("m"),
    ):
        with pytest.raises(LmxError) as refused:
            await attempt
        assert (refused.value.code, refused.value.param) == ("model_busy", "model")
    go_on.set()
    assert await deleting > 0
    assert planner.leaving == set()
    assert jobs.list() == []
