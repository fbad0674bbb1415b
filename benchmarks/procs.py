"""CPU time and memory of a process and all its descendants, from /proc or from `ps`."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process: CPU seconds used so far (reaped children included) and memory in bytes."""

    pid: int
    parent: int
    cpu_s: float
    rss: int
    peak_rss: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A process tree at one moment. `own_cpu_s` is the root's share of `cpu_s`."""

    pids: tuple[int, ...]
    cpu_s: float
    own_cpu_s: float
    peak_rss: int


def parse_stat(text: str, ticks_per_s: int) -> tuple[int, int, float]:
    """Read pid, parent pid and CPU seconds from the text of /proc/PID/stat.

    Reaped children's time (cutime, cstime) is counted, so a worker's exit loses nothing.
    """
    # The command name may itself hold spaces and brackets: fields start after the last one.
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    return int(pid), int(fields[1]), ticks / ticks_per_s


def parse_status_bytes(text: str, name: str) -> int:
    """Read one `Vm…` line (given in kB) of /proc/PID/status as bytes; 0 where it is absent."""
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def parse_ps_time(text: str) -> float:
    """Seconds of a `ps` time: `[[days-]hours:]minutes:seconds[.fraction]`."""
    days, dash, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + (int(days) * 86400 if dash else 0)


def parse_ps(text: str) -> Iterator[Process]:
    """Read the lines of `ps -axo pid=,ppid=,rss=,time=` (rss in kB; the peak is not known)."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 4:
            rss = int(fields[2]) * 1024
            yield Process(int(fields[0]), int(fields[1]), parse_ps_time(fields[3]), rss, rss)


def descendants(root: int, processes: Iterable[Process]) -> list[Process]:
    """The root and everything below it, root first; empty where the root is not there."""
    by_parent: dict[int, list[Process]] = {}
    found: list[Process] = []
    for process in processes:
        by_parent.setdefault(process.parent, []).append(process)
        if process.pid == root:
            found.append(process)
    for process in found:
        found.extend(by_parent.get(process.pid, []))
    return found


def read_proc(proc: Path = PROC) -> Iterator[Process]:
    """Every process /proc shows; memory is left at 0 (see `with_memory`)."""
    ticks = os.sysconf("SC_CLK_TCK")
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                pid, parent, cpu_s = parse_stat((entry / "stat").read_text(), ticks)
            except (OSError, ValueError, IndexError):
                continue  # It ended while being read.
            yield Process(pid, parent, cpu_s, 0, 0)


def with_memory(process: Process, proc: Path = PROC) -> Process:
    """The same process with current and peak memory filled in from /proc/PID/status."""
    try:
        text = (proc / str(process.pid) / "status").read_text()
    except OSError:
        return process
    rss, peak = (parse_status_bytes(text, name) for name in ("VmRSS", "VmHWM"))
    return Process(process.pid, process.parent, process.cpu_s, rss, peak)


def read_ps() -> Iterator[Process]:
    """Every process `ps` shows."""
    command = ["ps", "-axo", "pid=,ppid=,rss=,time="]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    yield from parse_ps(done.stdout)


def sample(root: int) -> Tree:
    """Measure the tree below `root` now; all zero where that process does not exist.

    Resolution of CPU time is one clock tick (10 ms on Linux). `peak_rss` is the sum of each
    process's own peak, so an upper bound; where only `ps` is there, it is the current memory.
    """
    if (PROC / "self" / "stat").exists():
        found = [with_memory(process) for process in descendants(root, read_proc())]
    else:
        found = descendants(root, read_ps())
    return Tree(
        pids=tuple(process.pid for process in found),
        cpu_s=sum(process.cpu_s for process in found),
        own_cpu_s=found[0].cpu_s if found else 0.0,
        peak_rss=sum(process.peak_rss for process in found),
    )


def resident(root: int) -> tuple[int, int]:
    """Resident bytes now: of the root process, and of everything below it."""
    if (PROC / "self" / "stat").exists():
        found = [with_memory(process) for process in descendants(root, read_proc())]
    else:
        found = descendants(root, read_ps())
    sizes = [process.rss for process in found]
    return sum(sizes[:1]), sum(sizes[1:])


def machine_busy_s() -> float | None:
    """CPU seconds all processes of this machine have used since boot; None without /proc."""
    try:
        fields = (PROC / "stat").read_text().splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq = (int(field) for field in fields[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
