"""Worker processes whose start is given up."""

import asyncio
import gc
import os
import resource
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from opta_lmx.engine.process import start_worker
from tests.support.process import running_below
from tests.support.sim_program import sim_process

RUNS = [asyncio.run, uvloop.run]


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  (the folder's own descriptor is in it)


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("turns", range(1, 4))
def test_a_start_given_up_leaves_no_socket(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None], turns: int
) -> None:
    async def main() -> None:
        starting = asyncio.ensure_future(
            start_worker(
                environment={},
                log_file=tmp_path / "log",
                on_frame=lambda _: None,
                on_lost=lambda: None,
            )
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    async def nothing() -> None:
        pass

    run(nothing())  # an event loop's library keeps some files of its own
    gc.collect()
    before = open_files()
    run(main())
    gc.collect()
    assert open_files() == before


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of others are seen on Linux")
def test_a_server_and_its_workers_leave_no_core_files(tmp_path: Path) -> None:
    own = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (own[1], own[1]))
    try:
        with sim_process(tmp_path / "home", {"m": {}}, log=tmp_path / "log") as server:
            body = {"model": "m"}
            server.http.post(f"{server.url}/admin/models/load", json=body).raise_for_status()
            pids = [
                server.process.pid,
                *running_below(server.process.pid, "opta_lmx.backends.worker"),
            ]
            limits = [resource.prlimit(pid, resource.RLIMIT_CORE) for pid in pids]
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, own)
    assert limits == [(0, 0), (0, 0)]
