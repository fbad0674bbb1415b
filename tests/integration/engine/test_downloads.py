"""Downloads on their threads: order, failures, cancelling, and an end in time."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import httpx
import pytest
import structlog

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.download_book import DownloadBook, Noted
from opta_lmx.engine.downloads import Download, Downloads
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.offer import Pin
from opta_lmx.models.progress import Progress, check_cancelled
from opta_lmx.models.store import ModelStore
from tests.support.hub import FakeHub, Repo
from tests.support.process import ServerProcess, start_server
from tests.support.waiting import until
from tests.support.weights import folder_files

WEIGHTS = "model.safetensors"


class Logged(NullTelemetry):
    """Keeps log lines with the request id they would carry."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, object]] = []

    def log(self, level: str, event: str, **fields: object) -> None:
        self.lines.append((event, structlog.contextvars.get_contextvars().get("request_id")))


class Gate:
    """Pulls that wait until let through; `deaf` ones do not notice being cancelled."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.open = threading.Event()
        self.started: list[str] = []
        self.threads: list[threading.Thread] = []
        self._deaf = deaf

    def pull(
        self,
        model: str,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
        _: Pin | None = None,
    ) -> None:
        self.started.append(model)
        self.threads.append(threading.current_thread())
        progress(Progress(model, "f", 1, 2, "downloading"))
        while not self.open.wait(0.01):
            if not self._deaf:
                check_cancelled(cancel)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene; a download that hangs fails the test."""
    asyncio.run(asyncio.wait_for(scene(), 30))


async def until_ended(job: Download) -> None:
    await until(lambda: job.status != "running")


def test_two_run_at_once_and_a_queued_one_is_cancelled_at_once() -> None:
    gate = Gate(deaf=True)

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry())
        first, second, third, fourth = [downloads.start(name) for name in "abcd"]
        await until(lambda: len(gate.started) == 2)
        assert downloads.cancel(third.id).status == "cancelled"
        gate.open.set()
        await until_ended(fourth)
        assert sorted(gate.started) == ["a", "b", "d"]
        assert [job.status for job in (first, second, third)] == [
            "completed",
            "completed",
            "cancelled",
        ]

    play(scene)


def test_downloads_leave_the_shared_threads_to_others() -> None:
    gate = Gate()

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry())
        jobs = [downloads.start(f"m{number}") for number in range(40)]
        await until(lambda: len(gate.started) == 2)
        await asyncio.wait_for(asyncio.to_thread(int), 5)
        assert {thread.daemon for thread in gate.threads} == {True}
        assert all(thread.name.startswith("download") for thread in gate.threads)
        await downloads.close()
        assert {job.status for job in jobs} == {"cancelled"}
        assert len(gate.started) == 2

    play(scene)


def test_an_unforeseen_failure_is_told_and_leaves_the_place_free() -> None:
    def pull(
        model: str,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
        _: Pin | None,
    ) -> None:
        raise RuntimeError(f"secret of {model}")

    async def scene() -> None:
        downloads = Downloads(pull, logged)
        for name in ("a", "b", "c"):
            job = downloads.start(name)
            reports = [report async for report in downloads.watch(job)]
            assert reports[-1]["status"] == "failed"
            assert reports[-1]["error"]["code"] == ErrorKind.INTERNAL.value
            assert "secret" not in reports[-1]["error"]["message"]

    logged = Logged()
    play(scene)
    assert [event for event, _ in logged.lines].count("download broke") == 3


def test_log_lines_do_not_carry_the_id_of_the_request_that_began() -> None:
    gate = Gate()
    logged = Logged()

    async def scene() -> None:
        downloads = Downloads(gate.pull, logged)
        structlog.contextvars.bind_contextvars(request_id="req-stale")
        job = downloads.start("a")
        gate.open.set()
        await until_ended(job)

    play(scene)
    assert logged.lines == [("download ended", None)]


def test_only_what_has_ended_is_forgotten() -> None:
    gate = Gate()

    def pull(
        model: str,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
        _: Pin | None,
    ) -> None:
        if model == "long":
            gate.pull(model, progress, cancel)

    async def scene() -> None:
        downloads = Downloads(pull, NullTelemetry())
        long = downloads.start("long")
        for number in range(120):
            last = downloads.start(f"m{number}")
            await until_ended(last)
        assert downloads.get(long.id) is long
        assert downloads.start("long") is long
        assert (len(downloads.list()), downloads.list()[-1]) == (100, last)
        await downloads.close()

    play(scene)


def test_what_ran_or_waited_at_a_kill_is_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "downloads.json"
    gate = Gate()

    async def killed() -> list[str]:
        downloads = Downloads(gate.pull, NullTelemetry(), book=DownloadBook(path))
        jobs = [downloads.start(name) for name in ("a", "b", "waits", "given-up")]
        downloads.cancel(jobs[3].id)
        await until(lambda: all(job.progress for job in jobs[:2]))
        await downloads.saved()
        return [job.id for job in jobs]

    async def next_run(ids: list[str]) -> None:
        book = DownloadBook(path, {"a": 7, "b": 0, "waits": 0}.__getitem__)
        downloads = Downloads(gate.pull, NullTelemetry(), book=book)
        reports = [job.report() for job in downloads.list()]
        assert [one["download_id"] for one in reports] == ids[:3]
        assert {one["status"] for one in reports} == {"interrupted"}
        assert [one["downloaded_bytes"] for one in reports] == [7, 0, 0]
        assert [one["total_bytes"] for one in reports] == [2, 2, 0]
        assert [report async for report in downloads.watch(downloads.get(ids[0]))] == reports[:1]
        assert downloads.accepted("a")
        assert not downloads.accepted("given-up")
        again = downloads.start("a")
        assert (again.id, again.status) == (ids[0], "running")
        assert downloads.cancel(ids[2]).status == "cancelled"
        gate.open.set()
        await until_ended(again)
        assert again.status == "completed"
        await downloads.saved()
        assert [one.id for one in book.read()] == [ids[1]]
        downloads.resume()
        await until_ended(downloads.get(ids[1]))
        await downloads.saved()
        assert book.read() == []

    ids = asyncio.run(killed())
    asyncio.run(asyncio.wait_for(next_run(ids), 30))


def test_what_the_end_of_the_server_cuts_short_is_known_to_the_next_run(tmp_path: Path) -> None:
    book = DownloadBook(tmp_path / "downloads.json")
    gate = Gate()

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry(), book=book)
        job = downloads.start("a")
        await until(lambda: gate.started)
        await downloads.close()
        assert job.status == "cancelled"

    play(scene)
    assert [one.model for one in book.read()] == ["a"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"id": 1}]', "[" * 5000, "\x00"])
def test_a_damaged_book_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "downloads.json"
    path.write_text(text)
    assert DownloadBook(path).read() == []
    assert Downloads(Gate().pull, NullTelemetry(), book=DownloadBook(path)).list() == []


def test_a_disk_that_takes_nothing_keeps_no_download_from_running(tmp_path: Path) -> None:
    gate = Gate()

    async def scene() -> None:
        book = DownloadBook(tmp_path / "gone" / "downloads.json")
        downloads = Downloads(gate.pull, NullTelemetry(), book=book)
        job = downloads.start("a")
        gate.open.set()
        await until_ended(job)
        assert job.status == "completed"
        await downloads.close()

    play(scene)


def test_a_slow_disk_holds_nobody_up_and_loses_nothing(tmp_path: Path) -> None:
    """Its stand-in is a pipe without a reader where the book's draft would be written."""
    path, gate = tmp_path / "downloads.json", Gate()
    draft = tmp_path / ".downloads.json.new"
    os.mkfifo(draft)
    goes_on = threading.Event()
    waited: list[bool] = []

    def disk() -> None:
        waited.append(goes_on.wait(20))
        with draft.open("rb") as pipe:
            draft.unlink()
            pipe.read()

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry(), book=DownloadBook(path))
        jobs = [downloads.start(name) for name in ("a", "b", "c")]
        saving = asyncio.ensure_future(downloads.saved())
        await until(lambda: len(gate.started) == 2)
        downloads.cancel(jobs[2].id)
        assert (saving.done(), path.exists()) == (False, False)
        goes_on.set()
        await saving
        assert [one.model for one in DownloadBook(path).read()] == ["a", "b"]
        await downloads.close()

    thread = threading.Thread(target=disk)
    thread.start()
    play(scene)
    thread.join(20)
    assert waited == [True], "everybody waited for the disk"


def test_the_line_of_downloads_is_bounded() -> None:
    gate = Gate()

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry())
        for number in range(102):
            downloads.start(f"m{number}")
        with pytest.raises(LmxError) as refused:
            downloads.start("one-more")
        assert refused.value.code == "too_many_downloads"
        assert len(downloads.list()) == 102
        await downloads.close()

    play(scene)


def test_what_may_go_on_outlives_what_has_ended(tmp_path: Path) -> None:
    async def scene() -> None:
        book = DownloadBook(tmp_path / "downloads.json")
        book.write([Noted("dl-old", "org/unfinished", 1)])
        await book.saved()
        downloads = Downloads(lambda *_: None, NullTelemetry(), book=book)
        for number in range(101):
            await until_ended(downloads.start(f"m{number}"))
        assert downloads.get("dl-old").status == "interrupted"
        await downloads.saved()
        assert [noted.id for noted in book.read()] == ["dl-old"]
        assert len(downloads.list()) == 100

    play(scene)


def test_an_unknown_download_is_named_by_its_field() -> None:
    async def scene() -> None:
        with pytest.raises(LmxError) as refused:
            Downloads(Gate().pull, NullTelemetry()).get("x" * 10_000)
        assert (refused.value.code, refused.value.param) == ("download_not_found", "download_id")
        assert len(refused.value.message) < 100

    play(scene)


def test_whatever_a_cancelled_download_stumbles_over_it_was_cancelled() -> None:
    def pull(
        model: str,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
        _: Pin | None,
    ) -> None:
        cancel.wait(20)
        raise LmxError(ErrorKind.UPSTREAM_FAILED, "gone", code="hub_unreachable")

    async def scene() -> None:
        downloads = Downloads(pull, NullTelemetry())
        job = downloads.cancel(downloads.start("a").id)
        await until_ended(job)
        assert (job.status, job.report()["error"]["code"]) == ("cancelled", "cancelled")

    play(scene)


def test_a_model_asked_for_again_waits_until_its_cancelled_download_let_go() -> None:
    gate = Gate(deaf=True)

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry())
        first = downloads.start("a")
        downloads.cancel(first.id)
        again = downloads.start("a")
        other = downloads.start("b")
        await until(lambda: len(gate.started) == 2)
        assert (again is first, gate.started) == (False, ["a", "b"])
        gate.open.set()
        for job in (first, again, other):
            await until_ended(job)
        assert (again.status, gate.started) == ("completed", ["a", "b", "a"])

    play(scene)


def test_closing_does_not_wait_for_a_thread_that_hears_nothing() -> None:
    gate = Gate(deaf=True)

    async def scene() -> None:
        downloads = Downloads(gate.pull, NullTelemetry())
        job = downloads.start("a")
        await until(lambda: gate.started)
        began = time.monotonic()
        await downloads.close()
        assert time.monotonic() - began < 4
        assert job.status == "cancelled"

    play(scene)
    gate.open.set()
    for thread in gate.threads:
        thread.join(5)


class CancelledInThePause(threading.Event):
    """Is set while the transfer pauses between two connections."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def test_a_pull_cancelled_between_connections_makes_no_new_one(tmp_path: Path) -> None:
    repo = Repo(folder_files() | {WEIGHTS: bytes(1 << 20)}, cut={WEIGHTS: 0.4}, cuts=10)
    store = ModelStore(tmp_path)
    store.sweep()
    with FakeHub(**{"org/model": repo}) as hub:
        puller = HubPuller(store, endpoint=hub.url)
        with pytest.raises(LmxError) as error:
            puller.pull("org/model", cancel=CancelledInThePause())
        assert error.value.code == "cancelled"
        assert len([one for one in hub.served if one.path.endswith("/resolve/" + WEIGHTS)]) <= 1
        assert len(hub.sent(WEIGHTS)) == 1


@contextlib.contextmanager
def silent_hub() -> Generator[tuple[str, threading.Event]]:
    """Takes connections and never answers; the event tells of the first one."""
    asked = threading.Event()
    held: list[socket.socket] = []

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])
                asked.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for connection in held:
        connection.close()


@pytest.mark.parametrize("confirm_bytes", ["0", "1"], ids=["fetching", "looking"])
def test_the_server_stops_in_time_while_the_hub_is_silent(
    tmp_path: Path, confirm_bytes: str
) -> None:
    bound = {"LMX_MODELS__CONFIRM_BYTES": confirm_bytes}
    with silent_hub() as (url, asked):
        server = start_server(tmp_path, LMX_MODELS__HUB_ENDPOINT=url, **bound)
        asking = threading.Thread(target=ask_for_a_download, args=(server,))
        try:
            server.wait_listening()
            asking.start()
            assert asked.wait(20)
            began = time.monotonic()
            assert server.stop(timeout_s=20) == 0
            assert time.monotonic() - began < 8
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()
            asking.join(20)
            server.http.close()
        assert ('"cancelled"' in server.log.read_text()) == (confirm_bytes == "0")


def ask_for_a_download(server: ServerProcess) -> None:
    """Whether there is an answer depends on what the server does first."""
    with contextlib.suppress(httpx.HTTPError):
        server.http.post(f"{server.url}/admin/models/download", json={"model": "org/model"})
