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


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert machine.existing_parent(tmp_path / "a" / "b") == tmp_path
    assert machine.existing_parent(tmp_path) == tmp_path
