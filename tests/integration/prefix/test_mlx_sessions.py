"""Sessions on tiny MLX models: most of every prompt is there, also after a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from opta_lmx.models.store import ModelStore
from tests.support.claws import DIALECTS, Claw, Dialect
from tests.support.prefix_server import PrefixServer, prefix_server
from tests.support.tiny import tiny_llama, tiny_sliding

pytest.importorskip("mlx.core")

MODEL = "m"
MODELS: dict[str, Callable[[], Path]] = {"llama": tiny_llama, "sliding": tiny_sliding}
ENGINE = {"prefix_cache_bytes": 2**29, "prefix_cache_disk_bytes": 2**30, "threads": 1}
SYSTEM = 2000
TURNS = 10


@pytest.mark.parametrize("kind", MODELS)
def test_sessions_and_a_restart(tmp_path: Path, kind: str) -> None:
    store = ModelStore(tmp_path / "models")
    store.sweep()
    store.add(MODELS[kind](), MODEL)
    cold: dict[Dialect, str] = {}
    with prefix_server(tmp_path, engine=ENGINE) as server:
        for dialect in DIALECTS:
            cold[dialect] = _session(server, dialect)
    with prefix_server(tmp_path, engine=ENGINE) as server:
        for dialect in DIALECTS:
            claw = Claw(server.http, MODEL, dialect, f"{dialect} one", SYSTEM)
            # What was read from disk continues as what was computed did.
            assert claw.turn(max_tokens=4) == cold[dialect]
            assert claw.cached >= 0.8 * claw.prompt
        assert server.metric("prefix_cache_corrections_total") == 0


def _session(server: PrefixServer, dialect: Dialect) -> str:
    """The turns of one bot and the first of another; the very first answer."""
    claw = Claw(server.http, MODEL, dialect, f"{dialect} one", SYSTEM)
    first = claw.turn(max_tokens=4)
    for _ in range(TURNS - 1):
        claw.turn(max_tokens=4)
        assert claw.cached >= 0.98 * server.asked.shared[-1]
    other = Claw(server.http, MODEL, dialect, f"{dialect} two", SYSTEM)
    other.turn(max_tokens=4)
    assert other.cached >= 0.95 * server.asked.shared[-1]
    _share_a_system_text(server, dialect)
    return first


def _share_a_system_text(server: PrefixServer, dialect: Dialect) -> None:
    """Two bots whose system text and tools are the same, word for word."""
    for name in "ab":
        bot = Claw(server.http, MODEL, dialect, f"{dialect} {name}", SYSTEM, named=False)
        bot.turn(max_tokens=4)
    assert bot.cached >= 0.8 * bot.prompt
