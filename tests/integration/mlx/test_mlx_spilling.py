"""States go to files and come back, in this process or the next; a damaged file is not used."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from opta_lmx.backends.frames import CacheChanged, Keep, Kept, Move, Reuse
from opta_lmx.backends.statefile import hash_ids, read_head, read_state, write_state
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import MODELS, Driver, prompt

pytestmark = pytest.mark.engine

IDS = prompt(150, 1)
NEXT = IDS + prompt(9, 2)


def changes(driver: Driver) -> list[CacheChanged]:
    return [frame for frame in driver.frames if isinstance(frame, CacheChanged)]


def spilled(driver: Driver, handle: int, path: Path) -> Kept:
    """Keep the state of IDS, write it, and let go of it."""
    driver.submit(1, NEXT, 2, keep=(Keep(handle, len(IDS)),))
    driver.run()
    driver.cache(spill=(Move(handle, str(path), b"note"),))
    driver.cache(drop=(handle,))  # what is being written stays until it is
    driver.run()
    (kept,) = [kept for change in changes(driver) for kept in change.spilled]
    assert driver.lost == [handle]
    driver.forget()
    return kept


def loaded(driver: Driver, handle: int, path: Path) -> bool:
    driver.cache(load=(Move(handle, str(path)),))
    driver.run()
    there = handle in driver.kept
    assert (handle in driver.lost) != there
    return there


@pytest.mark.parametrize("model", MODELS)
def test_a_state_survives_its_process(
    child: Child, drivers: Callable[[str], Driver], model: str, tmp_path: Path
) -> None:
    driver, path = drivers(model), tmp_path / "state.kv"
    alone = driver.alone(NEXT, 20)
    kept = spilled(driver, 1, path)
    assert kept == Kept(1, 150, path.stat().st_size)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.kv"]
    head = read_head(path)
    assert head is not None
    assert (head.tokens, head.note, head.layout) == (150, b"note", 1)
    assert head.ids_hash == hash_ids(b"".join(i.to_bytes(4, "little") for i in IDS))
    assert head.engine.startswith("mlx-lm 0.")
    again = Driver(child, MODELS[model](), slots=3)
    assert loaded(again, 7, path)
    assert again.kept[7].tokens == 150
    again.submit(1, NEXT, 20, reuse=Reuse(7, 150))
    again.submit(2, IDS[:140] + prompt(9, 3), 20, reuse=Reuse(7, 140))
    again.run()
    assert again.cached == {1: 150, 2: 140 if again.ready.caches == "trimmable" else 0}
    assert again.ids(1) == alone
    again.unload()


def test_a_request_waits_for_the_file_it_is_to_start_from(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "state.kv"
    alone = driver.alone(NEXT, 5)
    spilled(driver, 1, path)
    for request, file in ((1, path), (2, tmp_path / "none")):
        driver.cache(load=(Move(10 + request, str(file)),))
        driver.submit(request, NEXT, 5, reuse=Reuse(10 + request, 150))
    driver.run()
    assert driver.cached == {1: 150, 2: 0}
    assert driver.ids(1) == driver.ids(2) == alone
    assert driver.lost == [12]
    driver.cache(drop=(11,))


def test_damaged_files_are_lost(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "state.kv"
    alone = driver.alone(NEXT, 5)
    spilled(driver, 1, path)
    whole, handle = path.read_bytes(), 100
    damaged = [whole[: len(whole) * part // 16] for part in range(16)]
    damaged += [whole[:-1], whole + b"\0"]
    for part in range(16):
        at = (len(whole) - 1) * part // 15
        damaged.append(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
    for data in damaged:
        handle += 1
        path.write_bytes(data)
        assert not loaded(driver, handle, path)
    driver.submit(1, NEXT, 5, reuse=Reuse(handle, 150))
    driver.run()
    assert (driver.cached, driver.ids(1)) == ({1: 0}, alone)
    path.write_bytes(whole)
    driver.forget()
    assert loaded(driver, 99, path)
    driver.cache(drop=(99,))


@pytest.mark.parametrize("other", ["sliding", "hybrid"])
def test_another_models_file_is_lost(
    drivers: Callable[[str], Driver], other: str, tmp_path: Path
) -> None:
    path = tmp_path / "state.kv"
    spilled(drivers(other), 1, path)
    assert not loaded(drivers("llama"), 3, path)


@pytest.mark.parametrize("change", [{"engine": "mlx-lm 0.1"}, {"structure": [["Any", 1]]}])
def test_a_file_of_another_engine_or_making_no_sense_is_lost(
    driver: Driver, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "state.kv"
    spilled(driver, 1, path)
    file = read_state(path)
    write_state(path, msgspec.structs.replace(file.head, **change), file.ids, file.parts)
    assert not loaded(driver, 3, path)
    write_state(path, file.head, file.ids, file.parts)
    assert loaded(driver, 4, path)
    driver.cache(drop=(4,))


def test_what_cannot_be_written_or_read(driver: Driver, tmp_path: Path) -> None:
    driver.submit(1, NEXT, 2, keep_end=1)
    driver.run()
    (tmp_path / "folder").mkdir()
    moves = (Move(1, str(tmp_path / "none" / "file")), Move(2, str(tmp_path / "file")))
    driver.cache(spill=moves, load=(Move(1, str(tmp_path / "file")), Move(3, str(tmp_path))))
    driver.run()
    assert {handle for change in changes(driver) for handle in change.unspilled} == {1, 2}
    assert sorted(driver.lost) == [1, 3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    driver.cache(drop=(1,))


def test_rows_go_on_while_states_move(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "state.kv"
    alone = driver.alone(prompt(12, 4), 60)
    spilled(driver, 1, path)
    driver.submit(2, prompt(12, 4), 60)
    for handle in range(20, 30):
        driver.cache(load=(Move(handle, str(path)),))
        driver.step()
    driver.run()
    moves = tuple(Move(handle, str(tmp_path / f"{handle}.kv")) for handle in range(20, 30))
    driver.cache(spill=moves, drop=tuple(range(20, 30)))
    driver.run()
    assert driver.ids(2) == alone
    assert len(list(tmp_path.iterdir())) == 11
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) <= 2  # but for the note
