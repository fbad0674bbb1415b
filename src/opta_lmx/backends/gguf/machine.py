"""Reads the few facts about this machine that the plan needs."""

import os
import platform
import shutil
from pathlib import Path

from opta_lmx.backends.gguf.plan import Machine


def this_machine() -> Machine:
    """Memory, physical cores available to this process, and whether a GPU is likely used."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(memory_bytes=memory, cores=_physical_cores(), accelerator=_has_gpu())


def _physical_cores() -> int:
    if platform.system() != "Linux":
        # Apple's chips have no hyper-threads; about half of the cores are the fast ones.
        return max(1, (os.cpu_count() or 2) // 2)
    allowed = len(os.sched_getaffinity(0))
    siblings = {path.read_text() for path in _sibling_lists()}
    return min(allowed, len(siblings)) or allowed


def _sibling_lists() -> list[Path]:
    root = Path("/sys/devices/system/cpu")
    return sorted(root.glob("cpu[0-9]*/topology/thread_siblings_list"))


def _has_gpu() -> bool:
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return shutil.which("nvidia-smi") is not None
