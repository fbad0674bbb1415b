"""One server per home, one per port, and a typed error for everything in the way."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.planner import runtime_dir
from opta_lmx.startup import HomeLock, bind, clean_runtime, port_holder

HOLD = """
import sys
from pathlib import Path
from opta_lmx.startup import HomeLock
with HomeLock(Path(sys.argv[1])) as lock:
    lock.acquire("127.0.0.1:5555")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_server_on_one_home_is_told_who_holds_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with HomeLock(tmp_path) as lock, pytest.raises(LmxError) as error:
            lock.acquire("127.0.0.1:6666")
        assert error.value.kind is ErrorKind.CONFLICT
        assert f"pid {holder.pid}, 127.0.0.1:5555" in error.value.message
        holder.kill()
    with HomeLock(tmp_path) as lock:
        lock.acquire("127.0.0.1:6666")


def test_a_corrupt_lock_file_does_not_keep_anybody_out(tmp_path: Path) -> None:
    (tmp_path / "serve.lock").write_bytes(b"\xff\x00 nonsense")
    with HomeLock(tmp_path) as lock:
        lock.acquire("127.0.0.1:1")


def test_a_home_that_is_a_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    with pytest.raises(LmxError) as error:
        HomeLock(tmp_path / "home")
    assert error.value.code == "bad_state"


def test_a_taken_port_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        holder = port_holder(port)
        with pytest.raises(LmxError) as error:
            bind("127.0.0.1", port)
    assert error.value.code == "port_in_use"
    assert holder is not None
    assert holder in error.value.message


def test_an_unknown_host_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LmxError) as error:
        bind("no-such-host.invalid", 0)
    assert error.value.param == "server.host"


def test_stale_sockets_and_folders_are_swept(tmp_path: Path) -> None:
    folder = runtime_dir(tmp_path)
    (folder / "old.sock").write_text("")
    (folder / "lib").mkdir(exist_ok=True)
    (folder / "lib" / "link").write_text("")
    clean_runtime(tmp_path)
    assert list(folder.iterdir()) == []


def test_runtime_folder_is_private_and_short_even_for_a_deep_home(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 80) / ("y" * 80)
    folder = runtime_dir(deep)
    assert len(str(folder)) < 60
    assert folder.stat().st_mode & 0o777 == 0o700
