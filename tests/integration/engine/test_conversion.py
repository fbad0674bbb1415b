"""Conversions by the real converter: shared, ended when nobody waits, gone with their server."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.engine.conversion import Conversions
from opta_lmx.models.store import ModelStore
from tests.support.asynchronous import in_loop
from tests.support.process import running_below, wait_gone
from tests.support.tiny import tiny_gguf
from tests.support.waiting import until
from tests.support.weights import small_gguf

SERVER = """
import asyncio, signal, sys
from pathlib import Path
from opta_lmx.engine.conversion import Conversions
from opta_lmx.models.store import ModelStore
start = asyncio.create_subprocess_exec
async def stopped(*arguments, **options):
    process = await start(*arguments, **options)
    process.send_signal(signal.SIGSTOP)  # it cannot be through before its server is gone
    print(process.pid, flush=True)
    return process
asyncio.create_subprocess_exec = stopped
store = ModelStore(Path(sys.argv[1]))
asyncio.run(Conversions(store).make(store.get("tiny")))
"""


class Counted(ModelStore):
    """Counts what is begun."""

    begun = 0

    def begin_conversion(self, name: str) -> Path:
        self.begun += 1
        return super().begin_conversion(name)


@pytest.fixture
def store(tmp_path: Path) -> Counted:
    made = Counted(tmp_path / "store")
    made.sweep()
    made.add(tiny_gguf(), "tiny")
    return made


def left(store: ModelStore) -> list[Path]:
    return list((store.root / ".tmp").glob("*"))


@in_loop
async def test_all_who_want_a_conversion_share_one(store: Counted) -> None:
    conversions, entry = Conversions(store), store.get("tiny")
    first, *others = [asyncio.create_task(conversions.make(entry)) for _ in range(3)]
    await until(lambda: left(store))
    first.cancel()
    await asyncio.gather(*others)
    assert first.cancelled()
    assert (store.begun, left(store)) == (1, [])
    assert store.get("tiny").converted
    await conversions.make(entry)
    assert store.begun == 1


@in_loop
async def test_work_that_nobody_waits_for_is_ended(store: Counted) -> None:
    conversions, entry = Conversions(store), store.get("tiny")
    tasks = [asyncio.create_task(conversions.make(entry)) for _ in range(2)]
    pids: list[int] = []
    await until(
        lambda: pids.extend(running_below(os.getpid(), "opta_lmx.backends.convert")) or pids
    )
    pid = pids[0]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    wait_gone(pid, 0.5)
    assert left(store) == []
    assert not store.has_conversion("tiny")


@in_loop
async def test_a_refusal_is_told_to_all_and_another_try_is_a_new_one(
    store: Counted, tmp_path: Path
) -> None:
    (tmp_path / "odd.gguf").write_bytes(small_gguf())
    conversions, entry = Conversions(store), store.add(tmp_path / "odd.gguf")
    for count in (1, 2):
        told = await asyncio.gather(*map(conversions.make, [entry] * 2), return_exceptions=True)
        assert [one.code for one in told if isinstance(one, LmxError)] == ["invalid_gguf"] * 2
        assert store.begun == count


def test_the_converter_ends_with_a_server_that_is_killed(store: Counted) -> None:
    command = [sys.executable, "-c", SERVER, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        server.kill()
    os.kill(pid, signal.SIGCONT)
    wait_gone(pid, 10)
    assert [path for path in left(store) if (path / "config.json").exists()] == []
    assert store.sweep() == 1
    assert left(store) == []
    assert not store.has_conversion("tiny")
