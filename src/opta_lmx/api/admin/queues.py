"""`GET /admin/queue`: who waits and runs on each model, by lane, key and client."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter

from opta_lmx.core.principal import Lane
from opta_lmx.engine.residency import Engine
from opta_lmx.scheduling.rules import Depth

Json = dict[str, Any]
LANES = tuple(lane.name.lower() for lane in Lane)
"""As the outside calls them, the highest first."""


class AdminQueues:
    """The route's work.

    Args:
        engine: knows the lines.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def router(self) -> APIRouter:
        """The route."""
        routes = APIRouter(prefix="/admin")
        routes.add_api_route("/queue", self.queue, methods=["GET"], response_model=None)
        return routes

    async def queue(self) -> Json:
        """Every loaded model's line, as it stands."""
        lines = self._engine.queues()
        return {"models": [{"id": ref, **line_json(lines[ref])} for ref in lines]}


class Totals(msgspec.Struct, frozen=True):
    """What some clients have together; `oldest_s` is how long the oldest waits (s)."""

    waiting: int = 0
    running: int = 0
    oldest_s: float = 0.0


def totals(depths: Sequence[Depth]) -> Totals:
    """What these clients have together."""
    return Totals(
        waiting=sum(one.waiting for one in depths),
        running=sum(one.running for one in depths),
        oldest_s=max((one.oldest_s for one in depths), default=0.0),
    )


def by_lane(depths: Sequence[Depth]) -> dict[str, Totals]:
    """Every lane by its name, the empty ones too."""
    return {name: totals([one for one in depths if _lane(one) == name]) for name in LANES}


def line_json(depths: Sequence[Depth]) -> Json:
    """One line: in all, by lane, by key, and by each client of a key."""
    lanes = [{"lane": name, **_json(sums)} for name, sums in by_lane(depths).items()]
    keys = _grouped(depths, lambda one: {"tenant": one.tenant, "key": one.key})
    clients = _grouped(
        depths,
        lambda one: {
            "lane": _lane(one),
            "tenant": one.tenant,
            "key": one.key,
            "client": one.client,
        },
    )
    return {**_json(totals(depths)), "lanes": lanes, "keys": keys, "clients": clients}


def _lane(depth: Depth) -> str:
    return depth.lane.name.lower()


def _grouped(depths: Sequence[Depth], name: Callable[[Depth], dict[str, str]]) -> list[Json]:
    """What each group has together, in the order of its first; `name` tells one's group."""
    groups: dict[tuple[str, ...], list[Depth]] = {}
    for one in depths:
        groups.setdefault(tuple(name(one).values()), []).append(one)
    return [{**name(some[0]), **_json(totals(some))} for some in groups.values()]


def _json(sums: Totals) -> Json:
    return {**msgspec.structs.asdict(sums), "oldest_s": round(sums.oldest_s, 3)}
