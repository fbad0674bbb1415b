"""Files of states: what a request waits for does not wait for what nobody waits for."""

import os
from pathlib import Path

from opta_lmx.backends.mlx.disk import Disk, ReadBack, Written
from opta_lmx.backends.statefile import StateHead, hash_ids

_IDS = b"\1\0\0\0"
_HEAD = StateHead(1, hash_ids(_IDS), "engine", "shape", [], ())


def _all(disk: Disk) -> list[Written | ReadBack]:
    done: list[Written | ReadBack] = []
    while disk.busy:
        done += disk.take(10)
    return done


def test_files_are_read_while_one_is_being_written(tmp_path: Path) -> None:
    disk = Disk()
    # A pipe for a file: the first write stands until somebody listens.
    os.mkfifo(tmp_path / "slow.part")
    disk.write(1, tmp_path / "slow", _HEAD, _IDS, ())
    disk.write(2, tmp_path / "later", _HEAD, _IDS, ())
    disk.read(3, tmp_path / "missing")
    disk.read(4, tmp_path / "absent")
    read: list[Written | ReadBack] = []
    while len(read) < 2:
        read += disk.take(10)
    (tmp_path / "slow.part").read_bytes()

    assert [done.handle for done in read] == [3, 4]
    assert [done.handle for done in _all(disk)] == [1, 2]


def test_what_was_written_is_read_whole(tmp_path: Path) -> None:
    disk = Disk()
    disk.write(1, tmp_path / "state", _HEAD, _IDS, ())
    written = _all(disk)
    disk.read(2, tmp_path / "state")

    assert written == [Written(1, (tmp_path / "state").stat().st_size)]
    [back] = _all(disk)
    assert isinstance(back, ReadBack)
    assert back.file is not None
    assert (back.file.head, back.file.ids) == (_HEAD, _IDS)
