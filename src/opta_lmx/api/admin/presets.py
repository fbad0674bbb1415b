"""`/admin/presets`: what presets there are, what each says, and reading their files anew."""

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter

from opta_lmx.api.documents import error_docs
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.presets import Directory
from opta_lmx.models.presets import Preset

Json = dict[str, Any]


class AdminPresets:
    """The routes' work.

    Args:
        directory: knows the presets, and the models they mean.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._warm = set(directory.warm())
        self._reading = asyncio.Lock()

    def router(self) -> APIRouter:
        """The routes."""
        routes = APIRouter(prefix="/admin")
        for path, handler, method, statuses in (
            ("/presets", self.list, "GET", ()),
            ("/presets/reload", self.reload, "POST", ()),
            ("/presets/{name}", self.get, "GET", (404,)),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=[method],
                response_model=None,
                responses=error_docs(401, 403, 503, *statuses),
            )
        return routes

    async def list(self) -> Json:
        """Every preset, and what of the files was refused: a whole one, or its alias."""
        presets = await asyncio.to_thread(self._all)
        refused = [msgspec.structs.asdict(one) for one in self._directory.presets.refused]
        return {"object": "list", "data": presets, "refused": refused}

    async def get(self, name: str) -> Json:
        """One preset by its name."""
        return await asyncio.to_thread(self._told, self._directory.presets.get(name))

    async def reload(self) -> Json:
        """Read the files anew; those that cannot be used take no good preset away.

        `restart_needed` are models that are kept loaded, or not, from the next start on.
        """
        async with self._reading:
            found = await asyncio.to_thread(self._directory.read)
            result = self._directory.presets.take(found)
        later = sorted(self._warm ^ set(self._directory.warm()))
        return {**msgspec.to_builtins(result), "restart_needed": later}

    def _all(self) -> "list[Json]":
        return [self._told(preset) for preset in self._directory.presets.list()]

    def _told(self, preset: Preset) -> Json:
        """What a preset says, and what becomes of a request to it: `error` None for an answer."""
        served, error = None, None
        try:
            served = self._directory.canonical(preset.id)
        except LmxError as cause:
            error = {"code": cause.code, "message": cause.message}
        return {
            "id": preset.id,
            "name": preset.name,
            "description": preset.description,
            "model": preset.model,
            "alias": preset.alias or None,
            "parameters": preset.parameters,
            "system_prompt": preset.system_prompt or None,
            "warm": preset.warm,
            "serves": served,
            "error": error,
        }
