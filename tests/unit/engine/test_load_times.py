"""What loading took outlives the server, and a bad file is no more than a lost guess."""

import asyncio
from pathlib import Path

import pytest

from opta_lmx.engine.load_times import LoadBook
from opta_lmx.scheduling.loading import LoadTimes, LoadWork

WORK = LoadWork("org/m", 2_000_000_000, 1_000_000_000)


def test_the_next_run_knows_what_this_one_measured(tmp_path: Path) -> None:
    path = tmp_path / "load-times.json"
    book = LoadBook(path)
    book.converted(WORK, 20.0)
    asyncio.run(book.loaded(WORK, 7.5))
    later = LoadBook(path).times
    assert later.load_s(WORK) == 7.5
    assert later == book.times
    assert later.conversion_s(WORK) < LoadTimes().conversion_s(WORK)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"loads":{"m":"soon"}}'),
        *(b'{"loads":{"m":-1}}', b'{"bytes_per_s":0}', b'{"loads":{"m":1e999}}'),
    ],
)
def test_a_bad_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "load-times.json"
    path.write_bytes(content)
    book = LoadBook(path)
    assert book.times == LoadTimes()
    asyncio.run(book.loaded(WORK, 3.0))
    assert LoadBook(path).times.load_s(WORK) == 3.0


def test_a_home_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    book = LoadBook(tmp_path / "nowhere" / "load-times.json")
    asyncio.run(book.loaded(WORK, 3.0))
    assert book.times.load_s(WORK) == 3.0
