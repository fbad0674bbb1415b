"""What this machine says of itself."""

import os
import sys
from pathlib import Path

import pytest

from opta_lmx.cli import machine


def test_memory_is_plausible() -> None:
    memory = machine.memory()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.available <= memory.total <= physical * 1.01


def test_the_processor_has_cores() -> None:
    name, _, cores = machine.processor().rpartition(", ")
    assert name
    assert int(cores.removesuffix(" cores")) >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_facts_that_are_absent_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "absent")
    assert machine.memory().total == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads control groups")
def test_a_containers_limit_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    for name, text in (
        ("memory.max", "1000000\n"),
        ("memory.current", "700000\n"),
        ("memory.stat", "anon 300000\ninactive_file 400000\n"),
    ):
        (tmp_path / name).write_text(text)
    assert machine.memory() == machine.Memory(1_000_000, 700_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory().total > 1_000_000


def test_a_macs_memory_is_read_from_its_own_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                               10.\n"
        "Pages active:                            900.\n"
        "Pages inactive:                            5.\n"
        "Pages purgeable:                           1.\n"
    )
    outputs = {"sysctl": "17179869184", "vm_stat": shown}
    monkeypatch.setattr(machine, "_output", lambda *command: outputs[command[0]])
    page = os.sysconf("SC_PAGE_SIZE")
    assert machine._mac_memory() == machine.Memory(17_179_869_184, 16 * page)


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert machine.existing_parent(tmp_path / "a" / "b") == tmp_path
    assert machine.existing_parent(tmp_path) == tmp_path
