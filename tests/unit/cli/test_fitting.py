"""Will it fit: the estimate against the memory there is."""

from pathlib import Path

import pytest

from opta_lmx.cli.fitting import fit, need
from opta_lmx.cli.session import Session, open_session
from opta_lmx.models.description import KvGroup, ModelInfo
from opta_lmx.models.store import ModelEntry
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


@pytest.fixture
def session(command: Command, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("LMX_ENGINE__BACKEND", "gguf")
    monkeypatch.setenv("LMX_ENGINE__SLOTS", "4")
    return open_session()


def test_each_slot_costs_its_cache(session: Session) -> None:
    one, four = need(session, ENTRY, 1), need(session, ENTRY, 4)
    assert four.kv == 4 * one.kv == 4 * 4096 * 16 * 2048 * 2
    assert one.weights == 600_000_000


def test_what_is_said(session: Session) -> None:
    full, three, least = (need(session, ENTRY, slots).total for slots in (4, 3, 1))
    assert fit(session, ENTRY, full).state == "ok"
    some = fit(session, ENTRY, full - 1)
    assert some.state == "warning"
    assert "3 slots would fit" in some.detail
    assert "2 slots would fit" in fit(session, ENTRY, three - 1).detail
    assert "does not fit" in fit(session, ENTRY, least - 1).detail
    assert fit(session, ENTRY, 0).state == "info"


def test_a_smaller_window_costs_less(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMX_ENGINE__CONTEXT", "1024")
    small = open_session()
    assert need(small, ENTRY, 1).kv * 4 == need(session, ENTRY, 1).kv
    monkeypatch.setenv("LMX_ENGINE__CONTEXT", "999999")
    assert need(open_session(), ENTRY, 1) == need(session, ENTRY, 1)


def test_mlx_on_a_processor_unpacks_the_weights(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMX_ENGINE__BACKEND", "mlx")
    monkeypatch.setattr("opta_lmx.backends.registry.has_accelerator", lambda: False)
    unpacked = need(open_session(), ENTRY, 1)
    assert unpacked.weights == 4_000_000_000
    assert unpacked.kv == 2 * need(session, ENTRY, 1).kv
