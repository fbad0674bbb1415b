"""What must not be left half done is not, however often its caller is cancelled."""

import asyncio

import pytest

from opta_lmx.engine.settle import settle
from tests.support.asynchronous import in_loop
from tests.support.waiting import until


@in_loop
async def test_each_cancellation_waits_for_the_end() -> None:
    gate, log = asyncio.Event(), list[str]()

    async def work() -> None:
        log.append("begun")
        await gate.wait()
        log.append("done")

    async def caller() -> None:
        try:
            await settle(work())
        finally:
            log.append("cleared away")

    task = asyncio.create_task(caller())
    await until(lambda: log)
    for _ in range(3):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert log == ["begun"]
    gate.set()
    await asyncio.wait({task})
    assert log == ["begun", "done", "cleared away"]
    assert task.cancelled()


@in_loop
async def test_results_and_faults_come_through() -> None:
    async def work(fault: Exception | None) -> int:
        if fault is not None:
            raise fault
        return 7

    assert await settle(work(None)) == 7
    with pytest.raises(ValueError, match="broken"):
        await settle(work(ValueError("broken")))


@in_loop
async def test_a_fault_is_of_no_interest_to_who_was_cancelled() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise ValueError

    task = asyncio.create_task(settle(work()))
    await asyncio.sleep(0)
    task.cancel()
    gate.set()
    await asyncio.wait({task})
    assert task.cancelled()
