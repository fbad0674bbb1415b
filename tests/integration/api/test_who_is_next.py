"""Whose turn it is, over HTTP: names a caller gives itself gain it nothing against other keys."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.support.server import LiveServer, sim_server
from tests.support.waiting import until

MODEL = {"reply": "word " * 20, "step_ms": 3}
KEYS = [
    {"name": "hog", "key": "sk-hog"},
    {"name": "victim", "key": "sk-victim"},
    {"name": "jobs", "key": "sk-jobs", "lane": "background"},
]
FLOOD = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, {"m": MODEL}, slots=1, access={"keys": KEYS}) as live:
        yield live


class Asker(NamedTuple):
    """Whose key, and what the headers say besides."""

    key: str
    client: str
    lane: str | None = None

    def headers(self) -> dict[str, str]:
        said = {"Authorization": f"Bearer sk-{self.key}", "X-Client-ID": self.client}
        return said if self.lane is None else {**said, "X-Serving-Lane": self.lane}


async def order(server: LiveServer, flood: list[Asker], *late: Asker) -> list[Asker]:
    """Who is answered after whom, where all of `flood` are there before the late come."""
    answered: list[Asker] = []
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(timeout=60) as http:

        async def call(asker: Asker) -> None:
            url = f"{server.url}/v1/chat/completions"
            reply = await http.post(url, json=body, headers=asker.headers())
            assert reply.status_code == 200, reply.text
            answered.append(asker)

        calls = [asyncio.ensure_future(call(asker)) for asker in flood]
        await until(lambda: server.status("m").get("waiting", 0) >= len(flood) - 2)
        await asyncio.gather(*calls, *(call(asker) for asker in late))
    return answered


@pytest.mark.parametrize("rotating", [False, True])
def test_a_hog_that_rotates_its_name_gains_nothing(server: LiveServer, rotating: bool) -> None:
    flood = [Asker("hog", f"hog-{place if rotating else 0}") for place in range(FLOOD)]
    victim = Asker("victim", "bot")
    place = asyncio.run(order(server, flood, victim)).index(victim)
    # At most one runs, and one may have been let in while the victim's prompt was prepared.
    assert place <= 3


def test_within_a_key_a_name_has_its_own_share(server: LiveServer) -> None:
    flood = [Asker("hog", "busy") for _ in range(FLOOD)]
    other = Asker("hog", "quiet")
    assert asyncio.run(order(server, flood, other)).index(other) <= 3


def test_a_header_lowers_a_lane_and_does_not_lift_one(server: LiveServer) -> None:
    flood = [Asker("hog", "bot") for _ in range(FLOOD)]
    equal, lifted, lowered = (
        [Asker(key, "late", lane)] * (FLOOD // 2)
        for key, lane in (("victim", None), ("jobs", "interactive"), ("victim", "background"))
    )
    early = [
        sum(one.client == "late" for one in asyncio.run(order(server, flood, *late))[:FLOOD])
        for late in (equal, lifted, lowered)
    ]
    # Among equals every other one is theirs; in the lowest lane one in nine.
    assert early[0] >= FLOOD // 3
    assert max(early[1:]) <= FLOOD // 4


def test_background_work_makes_way_for_a_bot(server: LiveServer) -> None:
    flood = [Asker("jobs", f"job-{place}") for place in range(FLOOD)]
    bot = Asker("victim", "bot")
    assert asyncio.run(order(server, flood, bot)).index(bot) <= 3
