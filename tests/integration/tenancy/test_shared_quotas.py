"""One database, several processes: together they admit what one would, killed ones included."""

import signal
import subprocess
import sys
from pathlib import Path

LIMIT = 150
HAMMER = """
import asyncio, sys
from pathlib import Path
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy.windows import Limit, Want
from opta_lmx.tenancy.windows_sqlite import SCHEMA, SqliteWindows

async def main(path, tries, hang):
    clock = SystemClock()
    database = Database(Path(path), (SCHEMA,), clock, NullTelemetry())
    windows = SqliteWindows(database, clock, NullTelemetry())
    wants = [
        Want(Limit("key", "k", "requests", "day", 10**6), 1),
        Want(Limit("tenant", "t", "requests", "day", int(sys.argv[4])), 1),
    ]
    admitted = 0
    print("ready", flush=True)
    sys.stdin.readline()
    async def one():
        nonlocal admitted
        if (await windows.take(wants)).refused is None:
            admitted += 1
            if hang:
                print(admitted, flush=True)
    for _ in range(tries // 16):
        await asyncio.gather(*(one() for _ in range(16)))
    print(admitted, flush=True)
    if hang:
        await asyncio.sleep(3600)
    await database.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "hang"))
"""


def hammer(path: Path, tries: int, *, hang: bool = False) -> "subprocess.Popen[str]":
    """A process that takes `tries` times, once it is told to begin."""
    return subprocess.Popen(
        [sys.executable, "-c", HAMMER, str(path), str(tries), "hang" if hang else "", str(LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_admit_together_what_there_is(tmp_path: Path) -> None:
    both = [hammer(tmp_path / "lmx.db", 128) for _ in range(2)]
    try:
        assert [line(one) for one in both] == ["ready", "ready"]
        for one in both:
            begin(one)
        admitted = [int(line(one)) for one in both]
        assert sum(admitted) == LIMIT
        assert all(admitted), "one of them was shut out"
        assert [one.wait(30) for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
            one.communicate()


def test_a_killed_process_is_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    first = hammer(path, 64, hang=True)
    try:
        assert line(first) == "ready"
        begin(first)
        told = [line(first) for _ in range(40)]
        assert told[-1] == "40"
        first.send_signal(signal.SIGKILL)
        rest, _ = first.communicate()
    finally:
        first.kill()
    answered = max(int(number) for number in [*told, *rest.split()])
    second = hammer(path, 160)
    assert line(second) == "ready"
    begin(second)
    admitted = int(line(second))
    second.communicate()
    # What was committed and not told any more counts too: those 16 that were under way at most.
    assert LIMIT - answered - 16 <= admitted <= LIMIT - answered
