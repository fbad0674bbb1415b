"""A state's file is used only when every byte of it is as it was written."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opta_lmx.backends.statefile import (
    ArrayOf,
    StateFileError,
    StateHead,
    hash_ids,
    read_head,
    read_state,
    write_state,
)

IDS = bytes(range(40))
PARTS = (bytes(range(256)) * 3, b"", b"\1\2\3\4")
HEAD = StateHead(
    tokens=10,
    ids_hash=hash_ids(IDS),
    engine="some engine",
    shape="some form",
    structure=[["Cache", [{"array": 0}, 7, None]]],
    arrays=(
        ArrayOf("float16", 2, (1, 3, 128)),
        ArrayOf("float32", 4, (0,)),
        ArrayOf("int32", 4, ()),
    ),
    note=b"of the front",
)
WRITER = """
import sys
from itertools import count
from pathlib import Path
from tests.unit.backends.test_statefile import HEAD, IDS, ArrayOf, write_state
import msgspec
head = msgspec.structs.replace(HEAD, arrays=(ArrayOf("uint8", 1, (3 << 20,)),))
for turn in count():
    write_state(Path(sys.argv[1]), head, IDS, [bytes([turn % 251]) * (3 << 20)])
    print(turn, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.kv"


def written(path: Path) -> bytes:
    size = write_state(path, HEAD, IDS, PARTS)
    data = path.read_bytes()
    assert len(data) == size
    return data


def test_what_is_written_is_read(path: Path) -> None:
    written(path)
    file = read_state(path)
    assert (file.head, file.ids) == (HEAD, IDS)
    assert tuple(bytes(part) for part in file.parts) == PARTS
    assert read_head(path) == HEAD
    assert [entry.name for entry in path.parent.iterdir()] == ["some.kv"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_cut_anywhere_is_not_used(path: Path) -> None:
    data = written(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(StateFileError):
            read_state(path)
        assert read_head(path) is None
    path.write_bytes(data + b"\0")
    assert read_head(path) is None
    with pytest.raises(StateFileError):
        read_state(path)


def test_a_file_with_one_bit_flipped_is_not_used(path: Path) -> None:
    data = written(path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(StateFileError):
            read_state(path)


def test_no_file(path: Path) -> None:
    with pytest.raises(StateFileError):
        read_state(path)
    assert read_head(path) is None


@pytest.mark.parametrize(
    "change",
    [{"layout": 2}, {"tokens": 9}, {"ids_hash": hash_ids(b"")}, {"arrays": HEAD.arrays[:2]}],
)
def test_heads_that_do_not_fit(path: Path, change: dict[str, object]) -> None:
    write_state(path, msgspec.structs.replace(HEAD, **change), IDS, PARTS)
    with pytest.raises(StateFileError):
        read_state(path)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, led: bool) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(b"LMXKV\r\n\0" + data if led else data)
    assert read_head(path) is None
    with pytest.raises(StateFileError):
        read_state(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_state(tmp_path / "none" / "file", HEAD, IDS, PARTS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_state(tmp_path / "folder", HEAD, IDS, PARTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(path: Path) -> None:
    moments = random.Random(5)
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert writer.stdout is not None
        for _ in range(moments.randint(1, 20)):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=10)
        writer.stdout.close()
        (part,) = read_state(path).parts
        assert len(set(part[:: 1 << 12])) == 1
