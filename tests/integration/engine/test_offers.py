"""Large downloads are asked about first: tokens, their time, and what needs none."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.download_book import DownloadBook
from opta_lmx.engine.downloads import Download, Downloads
from opta_lmx.engine.offers import EXPIRES_S, Offers, Pending
from opta_lmx.models.offer import Offer
from opta_lmx.models.puller import Puller
from opta_lmx.models.store import RESERVE_BYTES, ModelStore
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock
from tests.support.hub import FakeHub, Repo
from tests.support.waiting import until
from tests.support.weights import folder_files, safetensors

SIZE = sum(len(data) for data in folder_files().values())


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(**{"org/model": Repo(folder_files())}) as running:
        yield running


class Desk:
    """Offers over a hub, with what they stand on."""

    def __init__(self, root: Path, hub: FakeHub, confirm_bytes: int, free: int = 1 << 40) -> None:
        self.store = ModelStore(root, disk_free=lambda _: free)
        self.store.sweep()
        self.clock = HandClock()
        puller = Puller(self.store, endpoint=hub.url)
        self.downloads = Downloads(puller.pull, NullTelemetry(), self.clock)
        self.offers = Offers(puller, self.store, self.downloads, confirm_bytes, self.clock)

    async def asked(self, model: str = "org/model") -> Pending:
        found = await self.offers.request(model)
        assert isinstance(found, Pending)
        return found

    async def done(self, job: Download) -> None:
        await until(lambda: job.status == "completed")


async def refused(desk: Desk, token: str, model: str | None = None) -> LmxError:
    with pytest.raises(LmxError) as caught:
        await desk.offers.confirm(token, model)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    return caught.value


@in_loop
async def test_a_large_model_is_fetched_once_it_is_confirmed(tmp_path: Path, hub: FakeHub) -> None:
    desk = Desk(tmp_path, hub, SIZE - 1, free=RESERVE_BYTES + SIZE)
    pending = await desk.asked()
    assert (pending.offer.total_bytes, pending.offer.held_bytes) == (SIZE, 0)
    assert pending.free_bytes == RESERVE_BYTES + SIZE
    assert desk.offers.expires_s(pending) == EXPIRES_S
    assert desk.downloads.list() == []
    assert not hub.sent("model.safetensors")
    assert (await refused(desk, pending.token, "org/other")).code == "confirmation_not_found"
    job = await desk.offers.confirm(pending.token, "org/model")
    assert (await refused(desk, pending.token)).code == "confirmation_not_found"
    assert await desk.offers.request("org/model") is job
    await desk.done(job)
    there = await desk.offers.request("org/model")
    assert isinstance(there, Download)


def test_a_token_is_good_for_ten_minutes(tmp_path: Path, hub: FakeHub) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path, hub, 1)
        old = await desk.asked()
        desk.clock.now = EXPIRES_S / 2
        young = await desk.asked()
        assert old.token != young.token
        desk.clock.now = EXPIRES_S + 1.0
        assert (await refused(desk, old.token)).param == "confirmation_token"
        await desk.done(await desk.offers.confirm(young.token))
        assert (await refused(desk, "confirm-nonsense")).code == "confirmation_not_found"

    asyncio.run(scene())


@pytest.mark.parametrize("confirm_bytes", [0, SIZE])
def test_what_is_not_large_is_not_asked_about(
    tmp_path: Path, hub: FakeHub, confirm_bytes: int
) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path, hub, confirm_bytes)
        job = await desk.offers.request("org/model")
        assert isinstance(job, Download)
        await desk.done(job)

    asyncio.run(scene())


def test_without_room_on_the_disk_nobody_is_asked(tmp_path: Path, hub: FakeHub) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path, hub, 1, free=RESERVE_BYTES + SIZE - 1)
        with pytest.raises(LmxError) as caught:
            await desk.offers.request("org/model")
        assert caught.value.code == "insufficient_disk"
        assert "GB" in caught.value.message
        assert desk.downloads.list() == []

    asyncio.run(scene())


def test_what_is_not_on_the_hub_is_said_at_once(tmp_path: Path, hub: FakeHub) -> None:
    async def scene() -> None:
        with pytest.raises(LmxError) as caught:
            await Desk(tmp_path, hub, 1).offers.request("org/absent")
        assert caught.value.code == "hub_not_found"

    asyncio.run(scene())


NEXT = "f" * 40
WEIGHTS = "model.safetensors"


def next_files() -> dict[str, bytes]:
    return folder_files() | {WEIGHTS: safetensors({"a": ("F32", (64, 64), bytes(1 << 14))})}


@in_loop
async def test_what_was_offered_is_fetched_though_the_hub_moves_on(
    tmp_path: Path, hub: FakeHub
) -> None:
    desk = Desk(tmp_path, hub, SIZE - 1)
    repo = hub.repos["org/model"]
    first = repo.commit
    pending = await desk.asked()
    repo.move_on(next_files(), NEXT)
    job = await desk.offers.confirm(pending.token)
    await desk.done(job)
    entry = desk.store.get("org/model")
    assert (entry.source, entry.size_bytes) == (f"hub:org/model@{first}", SIZE)


@pytest.mark.parametrize("same_commit", [False, True], ids=["gone", "of another size"])
@in_loop
async def test_what_is_not_there_any_more_is_to_be_asked_for_again(
    tmp_path: Path, hub: FakeHub, same_commit: bool
) -> None:
    desk = Desk(tmp_path, hub, 1)
    repo = hub.repos["org/model"]
    pending = await desk.asked()
    repo.move_on(next_files(), repo.commit if same_commit else NEXT, keep=False)
    job = await desk.offers.confirm(pending.token)
    await until(lambda: job.status == "failed")
    assert (job.report()["error"]["code"], job.error and job.error.param) == (
        "offer_changed",
        "model",
    )
    assert not hub.sent(WEIGHTS)
    again = await desk.asked()
    assert again.offer.commit == repo.commit
    await desk.done(await desk.offers.confirm(again.token))
    assert desk.store.get("org/model").source == f"hub:org/model@{repo.commit}"


@in_loop
async def test_a_small_download_does_not_grow_behind_ones_back(
    tmp_path: Path, hub: FakeHub
) -> None:
    """It begins unasked, so it must not bring what would have been asked about."""
    desk = Desk(tmp_path, hub, SIZE)
    held = hub.repos["org/held"] = Repo(folder_files(), hold={WEIGHTS: threading.Event()})
    others = [await desk.offers.request(name) for name in ("org/held", "org/held@main")]
    small = await desk.offers.request("org/model")  # waits: two run at once
    hub.repos["org/model"].move_on(next_files(), NEXT, keep=False)
    held.hold[WEIGHTS].set()
    assert isinstance(small, Download)
    await until(lambda: small.status == "failed")
    assert small.error is not None
    assert small.error.code == "offer_changed"
    await until(lambda: all(one.status != "running" for one in desk.downloads.list()))
    assert all(isinstance(one, Download) for one in others)


@in_loop
async def test_what_is_gone_altogether_is_not_said_to_be_changed(
    tmp_path: Path, hub: FakeHub
) -> None:
    desk = Desk(tmp_path, hub, 1)
    pending = await desk.asked()
    del hub.repos["org/model"]
    job = await desk.offers.confirm(pending.token)
    await until(lambda: job.status == "failed")
    assert job.error is not None
    assert job.error.code == "hub_not_found"


@in_loop
async def test_who_looks_at_the_same_time_joins_what_was_begun_meanwhile(
    tmp_path: Path, hub: FakeHub
) -> None:
    desk, held = Desk(tmp_path, hub, SIZE), threading.Event()
    downloads = Downloads(lambda *_: held.wait(20), NullTelemetry())
    puller = Puller(desk.store, endpoint=hub.url)
    look, commits = puller.look, itertools.count()
    together = threading.Barrier(2, timeout=20)

    def look_as_it_changes(model: str) -> Offer:
        offer = msgspec.structs.replace(look(model), commit=f"{next(commits):040d}")
        together.wait()
        return offer

    puller.look = look_as_it_changes
    offers = Offers(puller, desk.store, downloads, SIZE, desk.clock)
    first, second = await asyncio.gather(*(offers.request("org/model") for _ in range(2)))
    assert isinstance(first, Download)
    assert first is second
    held.set()
    await desk.done(first)
    await downloads.close()


@in_loop
async def test_two_versions_are_not_fetched_as_one(tmp_path: Path, hub: FakeHub) -> None:
    desk = Desk(tmp_path, hub, 1)
    repo = hub.repos["org/model"]
    older = await desk.asked()
    repo.move_on(next_files(), NEXT)
    repo.hold[WEIGHTS] = threading.Event()
    newer = await desk.asked()
    job = await desk.offers.confirm(older.token)
    with pytest.raises(LmxError) as caught:
        await desk.offers.confirm(newer.token)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.CONFLICT, "offer_changed")
    assert caught.value.param == "confirmation_token"
    repo.hold[WEIGHTS].set()
    await desk.done(job)


@in_loop
async def test_the_next_run_fetches_what_was_confirmed_in_this(
    tmp_path: Path, hub: FakeHub
) -> None:
    path, (desk, repo) = tmp_path / "book", (Desk(tmp_path, hub, 1), hub.repos["org/model"])
    pull = Puller(desk.store, endpoint=hub.url).pull
    pin = (await desk.asked()).offer.pin
    started = threading.Event()

    def cut_short(*asked: Any) -> None:
        started.set()
        asked[2].wait(20)
        raise LmxError(ErrorKind.CONFLICT, "", code="cancelled")

    first = Downloads(cut_short, NullTelemetry(), book=DownloadBook(path))
    first.start("org/model", pin)
    await until(started.is_set)
    await first.close()
    assert pin is not None
    repo.move_on(next_files(), NEXT)
    second = Downloads(pull, NullTelemetry(), book=DownloadBook(path))
    (job,) = second.list()
    assert (job.status, job.report()["total_bytes"]) == ("interrupted", SIZE)
    second.resume()
    await desk.done(job)
    assert desk.store.get("org/model").source == f"hub:org/model@{pin.commit}"
    await second.close()
