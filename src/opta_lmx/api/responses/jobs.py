"""Responses made in the background: nobody waits, anybody may look or cancel."""

import asyncio
from typing import Any

from opta_lmx.api.responses.making import Making
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.serving.responses import RUNNING, StoredResponses

Json = dict[str, Any]


class Jobs:
    """The background responses of this process.

    Args:
        store: where their states are kept.
        telemetry: told of states that could not be kept.
    """

    def __init__(self, store: StoredResponses, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Known from before they are kept as queued: else they would look like left behind.
        self._known: set[str] = set()
        self._ending: set[str] = set()
        self._closing = False

    async def start(self, making: Making) -> None:
        """Keep the response as queued, then make it. Raises UNAVAILABLE when it cannot be kept."""
        response_id = making.response["id"]
        self._known.add(response_id)
        try:
            await making.keep()
        except BaseException:
            self._known.discard(response_id)
            raise
        task = asyncio.ensure_future(self._work(making))
        self._tasks[response_id] = task
        task.add_done_callback(lambda _: self._forget(response_id))

    def _forget(self, response_id: str) -> None:
        self._tasks.pop(response_id, None)
        self._known.discard(response_id)
        self._ending.discard(response_id)

    async def _work(self, making: Making) -> None:
        async def note(events: list[Json]) -> None:
            if any(event["type"] == "response.in_progress" for event in events):
                await self._keep(making)

        try:
            await making.whole(note)
        except LmxError as error:
            making.fail(error)
            await self._keep(making)
        except asyncio.CancelledError:
            if self._closing:
                making.events.fail(_interrupted())
            else:
                making.events.cancel()
            making.close()
            await self._keep(making)
        finally:
            making.close()

    async def _keep(self, making: Making) -> None:
        try:
            await making.keep()
        except LmxError as error:
            self._telemetry.log(
                "error", "background response not kept", id=making.response["id"], code=error.code
            )

    def runs(self, response_id: str) -> bool:
        """True while a response is being made here."""
        return response_id in self._known

    async def cancel(self, response_id: str) -> None:
        """Stop making a response; returns when its last state is kept."""
        task = self._tasks.get(response_id)
        if task is None:
            return
        if response_id not in self._ending:
            # Only once: a second would interrupt the keeping of the last state.
            self._ending.add(response_id)
            task.cancel()
        await asyncio.wait({task})

    async def mend(self) -> None:
        """Mark responses that an earlier process left unfinished as failed."""
        for response in await self._store.unfinished():
            if response["status"] in RUNNING and not self.runs(response["id"]):
                error = {"code": "server_error", "message": _interrupted().message}
                await self._store.replace({**response, "status": "failed", "error": error})

    async def close(self) -> None:
        """Stop everything; what was not finished is kept as failed."""
        self._closing = True
        for response_id in list(self._tasks):
            await self.cancel(response_id)


def _interrupted() -> LmxError:
    return LmxError(ErrorKind.UNAVAILABLE, "The server ended while the response was being made.")


def not_in_background() -> LmxError:
    """Build the error for cancelling what nobody can cancel."""
    return LmxError(
        ErrorKind.INVALID_REQUEST,
        "Only responses made in the background can be cancelled.",
        code="not_cancellable",
        param="response_id",
    )
