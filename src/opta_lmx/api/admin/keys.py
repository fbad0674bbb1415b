"""`GET /admin/keys`: whose keys there are, and what is left of their budgets. Never a secret."""

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter

from opta_lmx.core.principal import Principal
from opta_lmx.serving.budgeting import Budgeting

Json = dict[str, Any]


class AdminKeys:
    """The route's work.

    Args:
        principals: the owners of all keys.
        budgeting: knows what they have used.
    """

    def __init__(self, principals: Sequence[Principal], budgeting: Budgeting) -> None:
        self._principals = principals
        self._budgeting = budgeting

    def router(self) -> APIRouter:
        """The route."""
        routes = APIRouter(prefix="/admin")
        routes.add_api_route("/keys", self.keys, methods=["GET"], response_model=None)
        return routes

    async def keys(self) -> Json:
        """Every key, by its name; none where the server asks for none."""
        return {"object": "list", "data": [self._key(owner) for owner in self._principals]}

    def _key(self, owner: Principal) -> Json:
        state = self._budgeting.state(owner)
        return {
            "name": owner.key,
            "tenant": owner.tenant,
            "lane": owner.lane.name.lower(),
            "weight": owner.weight,
            "max_running": owner.max_running,
            "budgets": msgspec.structs.asdict(owner.budgets),
            "minute": None if state is None else msgspec.structs.asdict(state),
        }
