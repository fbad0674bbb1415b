"""Reads the few facts about this machine that the plan needs."""

import os
import platform
from pathlib import Path

from opta_lmx.backends.gguf.plan import Machine


def this_machine(gpu_memory: int) -> Machine:
    """Memory where the caches will be, and physical cores available to this process.

    Args:
        gpu_memory: bytes of the GPU that will run the model; 0 without one.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = _physical_cores()
    return Machine(memory_bytes=gpu_memory or memory, cores=cores, accelerator=gpu_memory > 0)


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
