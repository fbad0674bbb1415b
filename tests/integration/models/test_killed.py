"""What a process killed in the middle of its work leaves in the store, and who clears it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from opta_lmx.models.store import ModelStore
from tests.support.weights import folder_files, small_gguf, write_folder


def convert_for_ever(root: Path, ready: Connection) -> None:
    """Begin a conversion, tell its folder, and never finish."""
    tmp = ModelStore(root).begin_conversion("small")
    write_folder(tmp, folder_files())
    ready.send(tmp)
    threading.Event().wait()


def test_an_abandoned_conversion_is_swept(tmp_path: Path) -> None:
    source = tmp_path / "small.gguf"
    source.write_bytes(small_gguf())
    store = ModelStore(tmp_path / "store")
    entry = store.add(source)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=convert_for_ever, args=(store.root, there))
    child.start()
    assert here.poll(60)
    tmp = here.recv()
    assert store.sweep() == 0
    assert tmp.is_dir()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    child.close()
    for end in (here, there):
        end.close()
    assert store.sweep() == 1
    assert not tmp.exists()
    assert store.list() == [entry]
    assert not store.has_conversion("small")
