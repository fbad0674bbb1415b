"""What is loaded is noted, for a start after a run that did not end in order."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.restoring import SAFE_AFTER, WINDOW_S, Journal, Noted
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock


class Told:
    """Telemetry that keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def count(self, name: str, value: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def log(self, level: str, event: str, **fields: object) -> None:
        self.events.append((event, {"level": level, **fields}))


class Home:
    """One state folder, and the runs of a server on it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "loaded.json"
        self.clock = HandClock(10_000)
        self.told = Told()
        self.interrupted: list[str] = []

    async def start(self, *, restore: bool = True) -> Journal:
        journal = Journal(self.path, self.clock, self.told)
        self.interrupted = [note.model for note in await journal.begin(restore=restore)]
        return journal

    async def restored(self, journal: Journal) -> list[str]:
        """Let the journal restore, and return what it wanted to have loaded, in turn."""
        wanted: list[str] = []

        async def load(note: Noted) -> None:
            wanted.append(note.model)
            journal.started(msgspec.structs.replace(note, reason="restore"))

        await journal.restore(load)
        return wanted


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def load(journal: Journal, model: str, reason: str = "request", context: int = 0) -> None:
    journal.started(Noted(model, "gguf", context, reason))
    await journal.loading(model)
    journal.settled(model)


async def killed(journal: Journal) -> None:
    """What was to be written is; nothing else happens any more."""
    await journal._file.saved()


@in_loop
async def test_what_was_asked_for_is_restored_the_last_used_first(home: Home) -> None:
    first = await home.start()
    for model, reason in (("a", "request"), ("named", "start"), ("w", "warm"), ("b", "operator")):
        await load(first, model, reason)
    await load(first, "ahead", "prefetch")
    await load(first, "wanted", "prefetch")
    first.used("wanted")
    first.used("a")
    await killed(first)
    second = await home.start()
    assert await home.restored(second) == ["a", "wanted", "b"]
    # And again, for what is restored is loaded.
    await killed(second)
    assert await home.restored(await home.start()) == ["b", "wanted", "a"]


@in_loop
async def test_an_end_in_order_leaves_nothing(home: Home) -> None:
    first = await home.start()
    await load(first, "a")
    first.freeze()
    first.gone("a")
    await first.end()
    assert not home.path.exists()
    second = await home.start()
    assert (await home.restored(second), home.told.events) == ([], [])


@in_loop
async def test_killed_while_it_ends_it_restores_what_there_was(home: Home) -> None:
    first = await home.start()
    await load(first, "a")
    first.freeze()
    first.gone("a")
    await killed(first)
    assert await home.restored(await home.start()) == ["a"]


@in_loop
async def test_what_was_unloaded_is_not_restored(home: Home) -> None:
    first = await home.start()
    await load(first, "a")
    await load(first, "b", context=512)
    first.gone("a")
    await killed(first)
    second = await home.start()
    assert [(one.model, one.context) for one in second._found] == [("b", 512)]


@in_loop
async def test_a_load_under_way_is_told_and_tried_again(home: Home) -> None:
    first = await home.start()
    await load(first, "a")
    first.started(Noted("b", "gguf", 0, "request"))
    await first.loading("b")
    first.started(Noted("c", "mlx", 0, "request"))  # waits for memory: no worker yet
    await killed(first)
    second = await home.start()
    assert home.interrupted == ["b"]
    assert await home.restored(second) == ["c", "b", "a"]


@in_loop
async def test_who_was_not_restored_yet_is_not_forgotten(home: Home) -> None:
    first = await home.start()
    await load(first, "a")
    await load(first, "b")
    await killed(first)
    await killed(await home.start())  # before anything was restored
    third = await home.start()
    assert [one.model for one in third._found] == ["a", "b"]


@in_loop
async def test_a_load_that_a_stop_cuts_short_says_nothing_of_the_model(home: Home) -> None:
    first = await home.start()
    first.started(Noted("a", "gguf", 0, "request"))
    await first.loading("a")
    first.freeze()
    await killed(first)
    second = await home.start()
    assert (home.interrupted, await home.restored(second)) == ([], ["a"])


@in_loop
async def test_one_that_fails_is_given_up(home: Home) -> None:
    first = await home.start()
    await load(first, "a")
    await load(first, "b")
    await killed(first)
    second = await home.start()
    tried: list[str] = []

    async def refuse(note: Noted) -> None:
        tried.append(note.model)
        if note.model == "b":
            raise RuntimeError("a fault of our own")
        raise LmxError(ErrorKind.MODEL_NOT_FOUND, "Gone.")

    await second.restore(refuse)
    await killed(second)
    assert tried == ["b", "a"]
    events = [event for event, _ in home.told.events]
    assert (events.count("model not restored"), events.count("restoring failed")) == (1, 1)
    assert await home.restored(await home.start()) == []


@in_loop
async def test_it_may_be_switched_off(home: Home) -> None:
    first = await home.start()
    first.started(Noted("a", "gguf", 0, "request"))
    await first.loading("a")
    await killed(first)
    second = await home.start(restore=False)
    assert (home.interrupted, await home.restored(second)) == (["a"], [])


@in_loop
async def test_too_many_unclean_stops_in_a_row_are_safe_mode(home: Home) -> None:
    for number in range(SAFE_AFTER):
        journal = await home.start()
        assert journal.safe is False, number
        await load(journal, "a")
        await killed(journal)
        home.clock.now += 60
    journal = await home.start()
    assert journal.safe
    assert await home.restored(journal) == []
    assert home.told.events[-1][0] == "safe mode: nothing is loaded unasked"
    await journal.end()
    assert (await home.start()).safe is False


@in_loop
async def test_unclean_stops_far_apart_are_no_row(home: Home) -> None:
    for _ in range(2 * SAFE_AFTER):
        journal = await home.start()
        assert journal.safe is False
        await load(journal, "a")
        await killed(journal)
        home.clock.now += WINDOW_S / (SAFE_AFTER - 1)


@in_loop
async def test_nothing_is_written_by_who_has_not_begun(home: Home) -> None:
    journal = Journal(home.path, home.clock, home.told)
    await load(journal, "a")
    await journal.end()
    assert not home.path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"models": 3}', b"\xff"])
@in_loop
async def test_a_file_that_is_not_ours_counts_for_nothing(home: Home, content: bytes) -> None:
    home.path.write_bytes(content)
    journal = await home.start()
    assert (await home.restored(journal), journal.safe, journal._unclean) == ([], False, [])
