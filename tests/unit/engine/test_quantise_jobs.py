"""The line of quantising jobs and their records; the work itself is a gate here."""

import asyncio
import contextlib
import errno
import threading
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import msgspec
import pytest

from opta_lmx.backends.quantize.rules import Scheme, scheme
from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.quantise_jobs import Job, Made, Record, Records, Step, Wish
from opta_lmx.engine.quantise_workshop import Workshop
from opta_lmx.engine.quantising import Quantising
from opta_lmx.engine.settle import settle
from opta_lmx.models.manifest import FileRecord, ModelEntry
from opta_lmx.models.store import ModelStore, Provenance
from tests.support.waiting import until
from tests.support.weights import folder_files, write_folder


class Gate(Workshop):
    """Work that waits until let through; the folder it works in is counted."""

    def __init__(self, planner: Planner, home: Path) -> None:
        super().__init__(planner, home)
        self.open = asyncio.Event()
        self.begun: list[str] = []
        self.inside = 0
        self.fault: BaseException | None = None

    @contextlib.contextmanager
    def reserved(self, job: Job) -> Generator[tuple[ModelEntry, Path]]:
        with super().reserved(job) as found:
            self.inside += 1
            try:
                yield found
            finally:
                self.inside -= 1

    async def make(self, job: Job, entry: ModelEntry, folder: Path) -> None:
        self.begun.append(job.record.name)
        job.step = Step("quantising", 1, 2, "a")
        job.tell()
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        job.record.result = Made(1, 4.5, 2, 0)


class Room:
    """A home with one model."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.free = 1 << 40
        self.store = ModelStore(home / "models", disk_free=lambda _: self.free)
        self.store.add(write_folder(home / "source", folder_files()), "small")
        planner = Planner(
            self.store, EngineSettings(), home, ModelsSettings(aliases={"nick": "small"})
        )
        self.work = Gate(planner, home)

    def jobs(self, timeout_s: float = 60.0) -> Quantising:
        records = Records(self.home / "jobs")
        return Quantising(self.work, records, timeout_s, NullTelemetry(), SystemClock())

    def kept(self) -> dict[str, str]:
        """Status on disk by the new model's name."""
        return {record.name: record.status for record in Records(self.home / "jobs").load()}


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene; a job that hangs fails the test."""
    asyncio.run(asyncio.wait_for(scene(), 30))


async def ended(job: Job) -> None:
    await until(lambda: job.ended)


def code(job: Job) -> str | None:
    return job.record.error.code if job.record.error else None


def test_one_runs_and_the_others_wait_in_order(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        all_three = [await jobs.start(Wish("nick", bits=bits)) for bits in (3, 4, 5)]
        await until(lambda: room.work.begun)
        assert [job.record.status for job in all_three] == ["running", "queued", "queued"]
        room.work.open.set()
        for job in all_three:
            await ended(job)
        assert room.work.begun == ["small-3bit", "small-4bit", "small-5bit"]
        assert set(room.kept().values()) == {"completed"}
        assert room.work.inside == 0

    play(scene)


def test_what_waits_is_cancelled_at_once_and_never_begun(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        first, second = [await jobs.start(Wish("small", bits=bits)) for bits in (3, 4)]
        await until(lambda: room.work.begun)
        assert (await jobs.cancel(second.id)).record.status == "cancelled"
        assert code(second) == "cancelled_by_user"
        assert room.kept() == {"small-3bit": "running", "small-4bit": "cancelled"}
        again = await jobs.start(Wish("small", bits=4))
        room.work.open.set()
        await ended(first)
        await ended(again)
        assert (first.record.status, again.record.status) == ("completed", "completed")
        assert room.work.begun == ["small-3bit", "small-4bit"]
        assert (await jobs.cancel(first.id)).record.status == "completed"

    play(scene)


def test_what_runs_is_cancelled_and_the_next_begins(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        first, second = [await jobs.start(Wish("small", bits=bits)) for bits in (3, 4)]

        async def watch() -> list[str]:
            return [report["status"] async for report in jobs.watch(first)]

        watching = asyncio.create_task(watch())
        await until(lambda: room.work.begun)
        assert (await jobs.cancel(first.id)).record.status == "cancelling"
        await jobs.cancel(first.id)
        await ended(first)
        assert (first.record.status, code(first)) == ("cancelled", "cancelled_by_user")
        assert list(dict.fromkeys(await watching))[-2:] == ["cancelling", "cancelled"]
        await until(lambda: len(room.work.begun) == 2)
        room.work.open.set()
        await ended(second)
        assert second.record.status == "completed"

    play(scene)


def test_a_job_is_cancelled_before_it_has_done_anything(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        room.work.open.set()
        job = await jobs.start(Wish("small"))
        assert job.record.status == "running"
        await jobs.cancel(job.id)
        await ended(job)
        assert (job.record.status, room.work.begun, room.work.inside) == ("cancelled", [], 0)

    play(scene)


def test_the_end_of_the_server_ends_all_and_says_so(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        both = [await jobs.start(Wish("small", bits=bits)) for bits in (3, 4)]
        await until(lambda: room.work.begun)
        await jobs.close()
        assert [job.record.status for job in both] == ["failed", "failed"]
        assert {code(job) for job in both} == {"interrupted_by_restart"}
        assert set(room.kept().values()) == {"failed"}
        assert room.work.inside == 0
        with pytest.raises(LmxError) as refused:
            await jobs.start(Wish("small", bits=5))
        assert refused.value.kind is ErrorKind.UNAVAILABLE

    play(scene)


def test_a_job_that_takes_too_long_is_ended(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs(timeout_s=0.05)
        job = await jobs.start(Wish("small"))
        await ended(job)
        assert (job.record.status, code(job), room.work.inside) == ("failed", "timed_out", 0)

    play(scene)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (LmxError(ErrorKind.INVALID_REQUEST, "No.", code="model_unreadable"), "model_unreadable"),
        (RuntimeError("secret"), "internal_error"),
    ],
)
def test_a_fault_is_told_and_leaves_the_place_free(
    room: Room, fault: Exception, expected: str
) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        room.work.fault = fault
        room.work.open.set()
        first, second = [await jobs.start(Wish("small", bits=bits)) for bits in (3, 4)]
        await ended(second)
        assert (code(first), code(second)) == (expected, expected)
        assert "secret" not in str(second.report())

    play(scene)


@pytest.mark.parametrize(
    ("wish", "kind", "expected", "param"),
    [
        (Wish("small", bits=7), ErrorKind.INVALID_REQUEST, "invalid_quantisation", "bits"),
        (Wish("absent"), ErrorKind.MODEL_NOT_FOUND, "model_not_found", "model"),
        (Wish("small", name="small"), ErrorKind.CONFLICT, "model_exists", "name"),
        (Wish("small", name="SMALL"), ErrorKind.CONFLICT, "model_exists", "name"),
        (Wish("small", name="../a"), ErrorKind.INVALID_REQUEST, "invalid_model_name", "name"),
        (Wish("small", name="Taken"), ErrorKind.CONFLICT, "model_busy", "name"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_request(
    room: Room, wish: Wish, kind: ErrorKind, expected: str, param: str
) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        await jobs.start(Wish("small", name="taken"))
        with pytest.raises(LmxError) as refused:
            await jobs.start(wish)
        error = refused.value
        assert (error.kind, error.code, error.param) == (kind, expected, param)
        assert len(jobs.list()) == 1
        await jobs.close()

    play(scene)


def test_the_line_is_bounded(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        for number in range(17):
            await jobs.start(Wish("small", name=f"n{number}"))
        with pytest.raises(LmxError) as refused:
            await jobs.start(Wish("small", name="last"))
        assert (refused.value.kind, refused.value.code) == (
            ErrorKind.RATE_LIMITED,
            "too_many_jobs",
        )
        await jobs.close()

    play(scene)


def test_a_disk_too_small_is_told_in_numbers(room: Room) -> None:
    async def scene() -> None:
        room.free = 1_050_000_000
        with pytest.raises(LmxError) as refused:
            await room.jobs().start(Wish("small"))
        error = refused.value
        assert (error.kind, error.code) == (
            ErrorKind.INSUFFICIENT_RESOURCES,
            "insufficient_disk",
        )
        assert "only 1.1 GB are left" in error.message

    play(scene)


def test_an_unknown_job_is_not_found(room: Room) -> None:
    with pytest.raises(LmxError) as refused:
        room.jobs().get("qz-none")
    assert (refused.value.kind, refused.value.code) == (ErrorKind.NOT_FOUND, "job_not_found")


def test_unfinished_jobs_of_an_earlier_run_have_failed(tmp_path: Path) -> None:
    records = Records(tmp_path / "jobs")
    states = ("queued", "running", "cancelling", "completed", "cancelled")
    for at, status in enumerate(states):
        records.write(Record(f"qz-{at}", "m", f"n{at}", "affine", 4, 64, at, status))
    (tmp_path / "jobs" / "torn.json").write_bytes(b'{"job_id": "qz-')
    jobs = Room(tmp_path).jobs()
    found = [job.record.status for job in jobs.list()]
    assert found == ["failed", "failed", "failed", "completed", "cancelled"]
    assert {code(job) for job in jobs.list()[:3]} == {"interrupted_by_restart"}
    assert [record.status for record in records.load()] == found
    assert not (tmp_path / "jobs" / "torn.json").exists()


@pytest.mark.parametrize(("started_ms", "status"), [(5, "completed"), (1 << 50, "failed")])
def test_a_model_that_was_made_is_told_of_though_its_server_was_not_there_to(
    tmp_path: Path, started_ms: int, status: str
) -> None:
    room = Room(tmp_path)
    with room.store.claim("new"), room.store.temporary() as folder:
        draft = write_folder(folder / "model", folder_files())
        files = [FileRecord(path.name, path.stat().st_size, "") for path in draft.iterdir()]
        room.store.publish("new", draft, "", files, Provenance("quantised:small"))
    record = Record("qz-1", "small", "new", "affine", 4, 64, 5, "running", started_ms)
    Records(tmp_path / "jobs").write(record)
    (job,) = room.jobs().list()
    assert job.record.status == status
    assert (job.record.result is not None) == (status == "completed")
    assert room.kept() == {"new": status}


def test_old_records_are_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path / "jobs")
    for at in range(130):
        records.write(Record(f"qz-{at}", "m", f"n{at}", "affine", 4, 64, at, "completed"))
    room = Room(tmp_path)

    async def scene() -> None:
        jobs = room.jobs()
        room.work.open.set()
        job = await jobs.start(Wish("small"))
        await ended(job)
        kept = [one.record.name for one in jobs.list()]
        assert kept == [*(f"n{at}" for at in range(31, 130)), "small-4bit"]
        await until(lambda: len(records.load()) == 100)

    play(scene)


def test_a_record_tells_what_its_job_does() -> None:
    record = Record("qz-1", "m", "n", "mxfp4", 4, 32, 5, "completed", result=Made(9, 4.2, 3, 1))
    job = Job(record)
    assert job.scheme == Scheme("mxfp4", 4, 32) == scheme("mxfp4", None, None)
    report = job.report()
    assert report["result"] == msgspec.to_builtins(record.result)
    assert (report["phase"], report["done_bytes"], report["total_bytes"]) == (None, 0, 0)


def test_a_cancelled_job_that_is_being_published_is_seen_through_by_the_end(room: Room) -> None:
    async def scene() -> None:
        begun, go_on, cancels = threading.Event(), threading.Event(), list[str]()

        def publish() -> None:
            begun.set()
            assert go_on.wait(10)
            cancels.append(f"published, {room.work.inside} inside")

        async def make(job: Job, entry: ModelEntry, folder: Path) -> None:
            await settle(asyncio.to_thread(publish))
            job.record.result = Made(1, 4.5, 2, 0)

        room.work.make = make
        jobs = room.jobs()
        job = await jobs.start(Wish("small"))
        await until(begun.is_set)
        await jobs.cancel(job.id)
        closing = asyncio.create_task(jobs.close())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        assert room.work.inside == 1
        go_on.set()
        await closing
        assert cancels == ["published, 1 inside"]
        assert (job.record.status, room.work.inside) == ("cancelled", 0)

    play(scene)


def test_a_long_failure_is_still_known_after_a_restart(room: Room) -> None:
    async def scene() -> None:
        jobs = room.jobs()
        room.work.open.set()
        named = ",\n".join(f"model.layers.{number}.mlp.weight" for number in range(5000))
        room.work.fault = LmxError(ErrorKind.INVALID_REQUEST, f"Missing {named}", code="unreadable")
        job = await jobs.start(Wish("small"))
        await ended(job)
        again = room.jobs().get(job.id).record
        assert again == job.record
        assert again.error is not None
        assert again.error.message.startswith("Missing model.layers.0.mlp.weight")
        assert len(again.error.message) == 2001

    play(scene)


def test_a_record_that_cannot_be_read_now_is_kept(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(room.home / "jobs")
    records.write(Record("qz-1", "small", "new", "affine", 4, 64, 1, status="failed"))

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        assert records.load() == []
    assert [record.job_id for record in records.load()] == ["qz-1"]
