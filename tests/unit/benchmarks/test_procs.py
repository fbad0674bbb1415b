import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import procs
from benchmarks.procs import Process

BUSY_S = 0.15
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
needs_ps = pytest.mark.skipif(shutil.which("ps") is None, reason="no ps here")

# The child starts a grandchild, both burn CPU, the grandchild ends, then the child waits.
FAMILY = f"""
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < {BUSY_S}: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
keep = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"],
                        stdin=subprocess.PIPE)
exec(burn)
print("ready", flush=True)
sys.stdin.read()
keep.stdin.close()
keep.wait()
"""


@contextmanager
def family() -> Iterator[int]:
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
        child.stdin.close()


def test_stat_fields_are_read_past_any_command_name() -> None:
    rest = "S 41 1 1 0 -1 4194304 9 9 9 9 150 50 20 30 20 0 1 0 99 0 0"
    assert procs.parse_stat(f"42 (a) b (c d) {rest}", 100) == (42, 41, 2.5)


def test_status_lines_are_kilobytes() -> None:
    text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n"
    assert procs.parse_status_bytes(text, "VmHWM") == 2 * 2**20
    assert procs.parse_status_bytes(text, "VmSwap") == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:01.50", 1.5), ("02:03", 123), ("01:02:03", 3723), ("2-01:00:00", 176400)],
)
def test_ps_times(text: str, seconds: float) -> None:
    assert procs.parse_ps_time(text) == pytest.approx(seconds)


def test_ps_lines() -> None:
    text = "  7  1  2048   0:01.50\n  9 7 10 00:02\nnonsense\n"
    rss = 2048 * 1024
    assert list(procs.parse_ps(text)) == [
        Process(7, 1, 1.5, rss, rss),
        Process(9, 7, 2.0, 10240, 10240),
    ]


def test_descendants_are_found_at_any_depth_and_order() -> None:
    parents = {1: 0, 5: 4, 4: 2, 3: 1, 2: 1, 9: 8}
    every = [Process(pid, parent, 1.0, 0, 0) for pid, parent in parents.items()]
    assert [process.pid for process in procs.descendants(2, every)] == [2, 4, 5]
    assert procs.descendants(77, every) == []


@needs_proc
def test_a_family_is_measured_its_dead_included() -> None:
    with family() as pid:
        tree = procs.sample(pid)
    assert tree.pids[0] == pid
    assert len(tree.pids) == 2
    # A tick is 10 ms; the dead grandchild's time is in the child's.
    assert tree.own_cpu_s >= 2 * BUSY_S - 0.03
    assert tree.cpu_s >= tree.own_cpu_s
    assert tree.peak_rss > 2 * 2**20


@needs_ps
def test_ps_sees_the_same_family() -> None:
    with family() as pid:
        found = procs.descendants(pid, procs.read_ps())
    assert len(found) == 2
    assert all(process.rss > 2**20 for process in found)


def test_a_missing_process_counts_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert procs.sample(ended.pid).pids == ()


@needs_proc
def test_the_machine_is_at_least_as_busy_as_we_are() -> None:
    before, own = procs.machine_busy_s(), time.process_time()
    while time.process_time() - own < BUSY_S:
        pass
    after = procs.machine_busy_s()
    assert before is not None
    assert after is not None
    assert after - before >= BUSY_S - 0.05


def test_own_process_is_in_its_own_tree() -> None:
    assert os.getpid() in procs.sample(os.getpid()).pids
