"""Facts about this machine: processor, memory, accelerator. Any of them may be unknown."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_COMMAND_S = 10.0
_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes: all there is, and what could be had without swapping (0: unknown)."""

    total: int
    available: int


def processor() -> str:
    """The processor's name and how many cores this process may use."""
    name = _linux_field(_CPUINFO, "model name") or _output(
        "sysctl", "-n", "machdep.cpu.brand_string"
    )
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return f"{name or platform.processor() or platform.machine()}, {cores} cores"


def memory() -> Memory:
    """How much memory there is and is free. A container's own limit is heeded."""
    if sys.platform == "darwin":
        return _mac_memory()
    total = _kilobytes("MemTotal")
    limit = _container_limit()
    available = _kilobytes("MemAvailable")
    if limit is not None and limit[0] < total:
        return Memory(limit[0], max(0, min(available, limit[0] - limit[1])))
    return Memory(total, available)


def accelerator() -> str | None:
    """The GPU that MLX can use, by name; None where there is none."""
    if sys.platform == "darwin":
        return "Metal" if platform.machine() == "arm64" else None
    if shutil.which("nvidia-smi") is None:
        return None
    names = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return f"CUDA: {'; '.join(names.splitlines())}" if names else None


def existing_parent(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _mac_memory() -> Memory:
    total = _output("sysctl", "-n", "hw.memsize")
    pages = dict(
        line.split(":", 1) for line in _output("vm_stat").splitlines() if line.count(":") == 1
    )
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    free = sum(
        int(pages.get(name, "0").strip(" .") or 0)
        for name in ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")
    )
    return Memory(int(total) if total.isdecimal() else 0, free * page_bytes)


def _container_limit() -> tuple[int, int] | None:
    """(limit, use) in bytes of the control group this process is in, where it has a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text().strip()
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not limit.isdecimal() or not used.isdecimal():
        return None
    # File pages that nobody uses count as used, but are given up at once.
    return int(limit), max(0, int(used) - int(stat.get("inactive_file", "0")))


def _kilobytes(field: str) -> int:
    text = _linux_field(_MEMINFO, field).removesuffix("kB").strip()
    return int(text) * 1024 if text.isdecimal() else 0


def _linux_field(path: Path, field: str) -> str:
    """The first value of `field` in a `name: value` file of /proc; empty where absent."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
