"""The hog on real workers: a tiny model pauses its rows, another engine keeps a slot free."""

import asyncio
import statistics
from pathlib import Path

import httpx
import pytest

from opta_lmx.models.store import ModelStore
from tests.integration.serving.test_hogs import IN_FLIGHT, VICTIMS, Caller, hogging
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import tiny_gguf, tiny_llama
from tests.support.waiting import until

pytestmark = pytest.mark.alone

SETTINGS = {
    "LMX_ENGINE__THREADS": "1",
    "LMX_ENGINE__SLOTS": "4",
    "LMX_SERVER__API_KEYS": '["key-one", "key-two"]',
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    store = ModelStore(folder / "models")
    store.sweep()
    store.add(tiny_gguf(), "tiny-gguf")
    store.add(tiny_llama(), "tiny-mlx")
    return folder


async def measure(server: ServerProcess, model: str, hog: str) -> tuple[float, list[float]]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        victim, other = Caller(http, "key-one", model), Caller(http, f"key-{hog}", model)
        solo = statistics.median([(await victim.ask("victim", 8))[0] for _ in range(5)])
        async with hogging(other, rotating=hog == "two") as ended:
            await until(lambda: server.models()[model]["waiting"] >= IN_FLIGHT - 4, 30)
            times = [(await victim.ask("victim", 8))[0] for _ in range(VICTIMS)]
            await until(lambda: ended, 60)
    return solo, times


@pytest.mark.parametrize("hog", ["one", "two"], ids=["own key", "other key, many names"])
@pytest.mark.parametrize("model", ["tiny-mlx", "tiny-gguf"])
def test_a_hog_holds_up_nobody(home: Path, model: str, hog: str) -> None:
    with running_server(home, "--model", model, key="key-one", **SETTINGS) as server:
        solo, times = asyncio.run(measure(server, model, hog))
    print(f"{model} {hog}: solo {solo:.3f} s,", [round(one, 3) for one in sorted(times)])
    assert statistics.median(times) <= max(2 * solo, solo + 0.2)
