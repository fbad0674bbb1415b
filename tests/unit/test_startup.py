"""One server per home, one per port, and a typed error for everything in the way."""

import _socket
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.planner import Planner, runtime_dir, runtime_path
from opta_lmx.models.store import ModelStore
from opta_lmx.startup import (
    HomeLock,
    address_text,
    bind,
    clean_rooms,
    clean_runtime,
    port_holder,
)
from tests.support.weights import small_gguf

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


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "a\0b"])
def test_a_host_that_is_no_name_is_a_typed_error(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **more: Any) -> Any:
        return _socket.getaddrinfo(host, port, 0, more["type"], 0, more["flags"])

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(LmxError) as error:
        bind(host, 0)
    assert (error.value.code, error.value.param) == ("invalid_config", "server.host")


def test_a_forbidden_port_is_not_said_to_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(LmxError) as error:
        bind("127.0.0.1", 80)
    assert "permission denied" in error.value.message
    assert "held by" not in error.value.message


def test_addresses_read_as_in_a_url() -> None:
    assert address_text("127.0.0.1", 1234) == "127.0.0.1:1234"
    assert address_text("::1", 1234) == address_text("[::1]", 1234) == "[::1]:1234"


def test_a_bracketed_host_is_an_address_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with bind("[::1]", 0) as listener:
        assert listener.getsockname()[0] == "::1"


@pytest.fixture
def short() -> Iterator[Path]:
    """A home short enough to hold its own sockets."""
    with tempfile.TemporaryDirectory(prefix="lmx-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A home so long that its sockets lie elsewhere; what is there is cleared away after."""
    home = tmp_path / ("x" * 80) / ("y" * 80)
    home.mkdir(parents=True)
    yield home
    path = runtime_path(home)
    assert not path.is_relative_to(tmp_path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_stale_sockets_and_folders_are_swept(short: Path) -> None:
    folder = runtime_dir(short)
    (folder / "old.sock").write_text("")
    (folder / "lib").mkdir(exist_ok=True)
    (folder / "lib" / "link").write_text("")
    clean_runtime(short)
    assert list(folder.iterdir()) == []


def test_runtime_folder_is_private_and_short_even_for_a_deep_home(deep: Path) -> None:
    folder = runtime_dir(deep)
    assert len(str(folder)) < 60
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("inside", [True, False])
def test_a_link_in_place_of_the_runtime_folder_is_not_followed(
    inside: bool, deep: Path, short: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o755)
    foreign.chmod(0o755)
    (foreign / "precious").write_text("kept")
    home = short if inside else deep
    runtime_path(home).symlink_to(foreign)
    for use in (runtime_dir, clean_runtime):
        with pytest.raises(LmxError) as error:
            use(home)
        assert (error.value.kind, error.value.code) == (ErrorKind.UNAVAILABLE, "bad_state")
    assert (foreign / "precious").read_text() == "kept"
    assert foreign.stat().st_mode & 0o777 == 0o755


def test_a_runtime_folder_of_somebody_else_is_refused(
    deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runtime_dir(deep)
    (folder / "theirs.sock").write_text("")
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    with pytest.raises(LmxError) as error:
        clean_runtime(deep)
    assert error.value.code == "bad_state"
    assert (folder / "theirs.sock").exists()


def test_a_file_in_place_of_the_runtime_folder_is_a_typed_error(deep: Path) -> None:
    runtime_path(deep).write_text("")
    with pytest.raises(LmxError) as error:
        runtime_dir(deep)
    assert error.value.code == "bad_state"


def test_an_old_runtime_folder_of_ours_is_made_private(deep: Path) -> None:
    runtime_path(deep).mkdir()
    runtime_path(deep).chmod(0o755)
    assert runtime_dir(deep).stat().st_mode & 0o777 == 0o700


def test_sockets_go_to_the_session_folder_where_that_is_short_and_ours(
    deep: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = runtime_path(deep)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert runtime_dir(deep).parent == short
    for unfit in (f"{short}/gone", f"{short}/" + "z" * 60, "relative"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unfit)
        assert runtime_path(deep) == elsewhere
    monkeypatch.delenv("XDG_RUNTIME_DIR")


def test_a_runtime_folder_outside_the_home_goes_with_the_server(deep: Path, short: Path) -> None:
    with clean_rooms(deep):
        folder = runtime_dir(deep)
        (folder / "a.sock").write_text("")
    assert not folder.exists()
    with clean_rooms(short):
        assert runtime_dir(short) == short / "run"
    assert (short / "run").is_dir()


def test_one_model_has_one_log_however_it_is_asked_for(short: Path) -> None:
    source = short / "m.gguf"
    source.write_bytes(small_gguf())
    store = ModelStore(short / "models")
    store.sweep()
    store.add(source, "m")
    planner = Planner(store, EngineSettings(backend="gguf"), short)
    plain, spelled, other = (planner.plan(ref) for ref in ("m", "m:gguf", "m:mlx"))
    assert plain.ref == spelled.ref == "m"
    assert plain.log_file == spelled.log_file
    assert (other.ref, other.log_file == plain.log_file) == ("m:mlx", False)
