"""Facts about the machine, and the missing extra."""

import sys

import pytest

from opta_lmx.backends.gguf.machine import this_machine
from opta_lmx.backends.gguf.server import gpu_memory
from opta_lmx.backends.protocol import LoadError


def test_this_machine_has_memory_and_cores() -> None:
    machine = this_machine(0)
    assert machine.memory_bytes > 1 << 28
    assert machine.cores >= 1
    assert not machine.accelerator


def test_caches_live_in_the_gpu_where_there_is_one() -> None:
    machine = this_machine(1 << 30)
    assert (machine.memory_bytes, machine.accelerator) == (1 << 30, True)


def test_missing_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(LoadError, match=r"opta-lmx\[gguf\]") as caught:
        gpu_memory()
    assert caught.value.code == "missing_extra"
