"""Large downloads are asked about first: tokens, their time, and what needs none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.downloads import Download, Downloads
from opta_lmx.engine.offers import EXPIRES_S, Offers, Pending
from opta_lmx.models.puller import Puller
from opta_lmx.models.store import RESERVE_BYTES, ModelStore
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock
from tests.support.hub import FakeHub, Repo
from tests.support.waiting import until
from tests.support.weights import folder_files

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


def refused(desk: Desk, token: str) -> LmxError:
    with pytest.raises(LmxError) as caught:
        desk.offers.confirm(token)
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
    job = desk.offers.confirm(pending.token)
    assert refused(desk, pending.token).code == "confirmation_not_found"
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
        assert refused(desk, old.token).param == "confirmation_token"
        await desk.done(desk.offers.confirm(young.token))
        assert refused(desk, "confirm-nonsense").code == "confirmation_not_found"

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
