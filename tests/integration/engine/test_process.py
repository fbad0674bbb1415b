"""Worker processes whose start is given up."""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from opta_lmx.engine.process import start_worker

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
