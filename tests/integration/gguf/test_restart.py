"""Slots kept in files over a restart: whole, of the same model and tenant, or not used at all."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opta_lmx.backends.frames import Fault
from tests.support.gguf_child import Child
from tests.support.tiny import tiny_gguf
from tests.support.waiting import wait_until

pytestmark = pytest.mark.engine
PROMPT = tuple(100 + place * 37 % 3900 for place in range(700))
OTHER = tuple(100 + place * 53 % 3900 for place in range(600))


def serve(folder: Path, **more: object) -> Child:
    options = {"slot_dir": str(folder), "slot_quiet_s": 0.05}
    return Child(tiny_gguf(), **{"context": 4096, "slots": 2, "options": options, **more})


def ask(child: Child, ids: tuple[int, ...], salt: str = "") -> tuple[int, list[int]]:
    number = child.submit(ids, max_tokens=12, salt=salt)
    child.wait(number)
    assert child.of(Fault) == []
    (cached,) = child.started(number)
    return cached, [out.id for out in child.tokens(number)]


def notes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.note"))


def data(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.slot"))


def kept(folder: Path, *prompts: tuple[int, ...], salt: str = "") -> list[int]:
    """Serve these prompts until each is in a file; return the last answer."""
    answer: list[int] = []
    with serve(folder) as child:
        child.ready()
        for count, ids in enumerate(prompts, len(notes(folder)) + 1):
            _, answer = ask(child, ids, salt)
            wait_until(lambda count=count: len(notes(folder)) >= count)
    return answer


def test_a_new_process_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    before = kept(tmp_path, OTHER, PROMPT)
    with serve(tmp_path) as child:
        child.ready()
        assert ask(child, PROMPT) == (len(PROMPT) - 1, before)
        assert ask(child, (*OTHER, 7, 8))[0] == len(OTHER)


def test_files_are_private_and_no_more_than_slots(tmp_path: Path) -> None:
    kept(tmp_path, PROMPT, OTHER)
    with serve(tmp_path) as child:
        child.ready()
        ask(child, tuple(reversed(PROMPT)))
        newest = {path.name for path in notes(tmp_path)}
        wait_until(lambda: {path.name for path in notes(tmp_path)} != newest)
        wait_until(lambda: len(data(tmp_path)) == 2)
    assert len(notes(tmp_path)) == 2
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_conversation_is_written_again_when_it_grew_and_takes_one_file(tmp_path: Path) -> None:
    with serve(tmp_path) as child:
        child.ready()
        ask(child, PROMPT)
        wait_until(lambda: len(notes(tmp_path)) == 1)
        (first,) = notes(tmp_path)
        ask(child, (*PROMPT, *range(200, 300)))
        ask(child, (*PROMPT, *range(200, 800)))
        wait_until(lambda: notes(tmp_path) and notes(tmp_path) != [first])
        wait_until(lambda: len(data(tmp_path)) == 1)
        assert len(notes(tmp_path)) == 1


def test_two_conversations_of_one_beginning_are_both_kept(tmp_path: Path) -> None:
    pair = [(*PROMPT, *OTHER[:300]), (*PROMPT, *OTHER[300:])]
    kept(tmp_path, *pair)
    with serve(tmp_path) as child:
        child.ready()
        for ids in pair:
            assert ask(child, (*ids, 7, 8))[0] >= len(ids)


def test_another_tenant_gets_nothing_of_it(tmp_path: Path) -> None:
    before = kept(tmp_path, PROMPT, salt="tenant-a")
    assert b"tenant-a" not in notes(tmp_path)[0].read_bytes()
    with serve(tmp_path) as child:
        child.ready()
        assert ask(child, PROMPT, "b") == (0, before)
        assert ask(child, PROMPT, "tenant-a") == (len(PROMPT) - 1, before)


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x40
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of the state": lambda folder: flip(data(folder)[0], 0.6),
    "a bit of the state's head": lambda folder: flip(data(folder)[0], 0.0005),
    "a shorter state": lambda folder: shorten(data(folder)[0]),
    "no state": lambda folder: data(folder)[0].unlink(),
    "a bit of the note": lambda folder: flip(notes(folder)[0], 0.5),
    "a shorter note": lambda folder: shorten(notes(folder)[0]),
    "no note": lambda folder: notes(folder)[0].unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_never_used(tmp_path: Path, damage: str) -> None:
    before = kept(tmp_path, PROMPT)
    DAMAGE[damage](tmp_path)
    with serve(tmp_path, options={"slot_dir": str(tmp_path), "slot_quiet_s": 60.0}) as child:
        child.ready()
        assert notes(tmp_path) == data(tmp_path) == []
        assert ask(child, PROMPT) == (0, before)


def test_another_model_uses_none_of_it(tmp_path: Path) -> None:
    kept(tmp_path, PROMPT)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf().read_bytes())
    options = {"slot_dir": str(tmp_path), "slot_quiet_s": 60.0}
    with Child(copy, context=4096, slots=2, options=options) as child:
        child.ready()
        assert ask(child, PROMPT)[0] == 0
    assert len(notes(tmp_path)) == 1, "they are left to their own model"


def test_a_folder_is_one_processs_at_a_time(tmp_path: Path) -> None:
    kept(tmp_path, PROMPT)
    with serve(tmp_path) as first, serve(tmp_path) as second:
        first.ready()
        second.ready()
        cached = sorted(ask(child, PROMPT)[0] for child in (first, second))
        assert cached == [0, len(PROMPT) - 1]


@pytest.mark.parametrize("stage", ["*/*.part", "*/*.slot", "*/*.note*", "*/*.note"])
def test_killed_while_it_writes(tmp_path: Path, stage: str) -> None:
    """Whatever is left, the next process answers as a fresh one, and clears what is not whole."""
    draw = random.Random(stage)
    long = tuple(draw.randrange(100, 3900) for _ in range(2500))
    with serve(tmp_path) as child:
        child.ready()
        _, fresh = ask(child, long)
        watch = threading.Event()

        def kill() -> None:
            deadline = time.monotonic() + 10
            while not any(tmp_path.glob(stage)) and time.monotonic() < deadline:
                pass
            child.process.kill()
            watch.set()

        thread = threading.Thread(target=kill)
        thread.start()
        thread.join(20)
        assert watch.is_set()
        child.process.wait(10)
    with serve(tmp_path) as child:
        child.ready()
        assert len(notes(tmp_path)) == len(data(tmp_path)) <= 1
        whole = len(notes(tmp_path))
        assert not any(tmp_path.glob("*/*.part"))
        assert ask(child, long) == ((len(long) - 1) if whole else 0, fresh)


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    with Child(tiny_gguf(), context=1024, slots=2, runtime_dir=str(tmp_path)) as child:
        child.ready()
        ask(child, PROMPT)
        ask(child, (*PROMPT[:300], *OTHER))
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".slot", ".note")]
        assert not list(tmp_path.rglob("*.part")), "copies are gone when they are made"
