"""Will it fit: the estimate against the memory there is."""

from pathlib import Path

import msgspec
import pytest

from opta_lmx.backends.gguf.plan import DEFAULT_CONTEXT
from opta_lmx.cli.fitting import better, fit
from opta_lmx.cli.local import open_store
from opta_lmx.cli.session import Session, open_session
from opta_lmx.engine import sizing
from opta_lmx.engine.planner import Planner
from opta_lmx.models.description import KvGroup, ModelInfo
from opta_lmx.models.store import ModelEntry
from tests.support.tiny import tiny_gguf
from tests.unit.cli.conftest import Command

INFO = ModelInfo(
    format="gguf",
    architecture="llama",
    context_length=4096,
    quantisation="Q4_K_M",
    parameters=1_000_000_000,
    size_bytes=600_000_000,
    weights_bytes=600_000_000,
    layers=16,
    vocabulary=32_000,
    kv=(KvGroup(layers=16, key=1024, value=1024),),
)
ENTRY = ModelEntry("m", "gguf", Path("m.gguf"), 600_000_000, "file:m", INFO)


GB = 1 << 30


@pytest.fixture
def session(command: Command, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("LMX_ENGINE__BACKEND", "gguf")
    monkeypatch.setenv("LMX_ENGINE__SLOTS", "4")
    monkeypatch.setattr(sizing, "machine_bytes", lambda: 64 * GB)
    return open_session()


def planner(session: Session) -> Planner:
    settings = session.settings
    return Planner(open_store(session), settings.engine, session.home, None, settings.memory)


def total(session: Session, slots: int, entry: ModelEntry = ENTRY) -> int:
    """What a server would say that so many slots take."""
    ours = planner(session)
    appetite = ours.appetite(entry, ours.default_backend(entry))
    return appetite.full(appetite.context, slots).total


def test_what_is_said(session: Session) -> None:
    ours = planner(session)
    full, three, least = (total(session, slots) for slots in (4, 3, 1))
    said = fit(ours, ENTRY, full)
    assert (said.state, "4 slots of 4096 tokens" in said.detail) == ("ok", True)
    some = fit(ours, ENTRY, full - 1)
    assert some.state == "warning"
    assert "3 slots would fit" in some.detail
    assert 'set slots = 3 under [engine.overrides."m"]' in some.detail
    assert "2 slots would fit" in fit(ours, ENTRY, three - 1).detail
    too_large = fit(ours, ENTRY, least - 1).detail
    assert "does not fit" in too_large
    assert "opta-lmx fit m" in too_large
    assert fit(ours, ENTRY, 0).state == "info"
    assert not (session.home / "run").exists()  # doctor looks, and changes nothing


def test_caches_that_make_do_with_less_fit(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "machine_bytes", lambda: 2 * GB)
    ours = planner(session)
    reserved = ours.appetite(ENTRY, "gguf").reserved().total
    assert reserved < total(session, 4)
    said = fit(ours, ENTRY, reserved)
    assert (said.state, "it is given" in said.detail) == ("ok", True)
    assert fit(ours, ENTRY, reserved - 1).state == "warning"


def test_the_window_is_that_of_a_load(session: Session) -> None:
    long = msgspec.structs.replace(INFO, context_length=1 << 17)
    entry = msgspec.structs.replace(ENTRY, info=long)
    assert f"slots of {DEFAULT_CONTEXT} tokens" in fit(planner(session), entry, 64 * GB).detail


def test_packed_weights_stay_packed_on_a_processor(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.backends.registry.has_accelerator", lambda: False)
    info = msgspec.structs.replace(INFO, format="mlx", quantisation="4bit")
    packed = msgspec.structs.replace(ENTRY, format="mlx", info=info)
    assert fit(planner(session), packed, 4 * GB).state == "ok"


def test_a_draft_counts(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(session)
    entry, _ = [store.add(tiny_gguf(), name) for name in ("tiny", "helper")]
    alone = total(session, 4, entry)
    assert fit(planner(session), entry, alone).state == "ok"
    monkeypatch.setenv("LMX_ENGINE__OVERRIDES", '{tiny = {draft = "helper"}}')
    assert fit(planner(open_session()), entry, alone).state == "warning"


def test_a_setting_that_is_refused_is_told(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMX_ENGINE__OVERRIDES", '{m = {draft = "absent"}}')
    said = fit(planner(open_session()), ENTRY, 64 * GB)
    assert (said.state, "absent" in said.detail) == ("warning", True)


def test_the_largest_model_of_the_catalogue_that_fits_is_named(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMX_MEMORY__BUDGET_BYTES", "9000000000")
    (check,) = better(open_session())
    assert check.state == "info"
    assert "9.0 GB" in check.detail
    assert "opta-lmx pull bartowski/Qwen_Qwen3-8B-GGUF" in check.detail
    monkeypatch.setenv("LMX_MEMORY__BUDGET_BYTES", "1000")
    assert list(better(open_session())) == []
