"""The whole of the Responses API: its routes over HTTP and WebSocket, and its end."""

from fastapi import APIRouter

from opta_lmx.api.calls import Calls
from opta_lmx.api.responses.jobs import Jobs
from opta_lmx.api.responses.route import ResponsesRoute
from opta_lmx.api.responses.socket import ResponsesSocket
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.serving.responses import StoredResponses


class ResponsesSurface:
    """What the composition root holds of this dialect.

    Args:
        store: where responses are kept.
        telemetry: told of turns, and of background work that fails.
    """

    def __init__(self, store: StoredResponses, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._jobs = Jobs(store, telemetry)

    def routers(self, calls: Calls) -> list[APIRouter]:
        """Both transports of `/v1/responses`; `calls` admits and reads requests."""
        route = ResponsesRoute(calls, self._store, self._jobs, self._telemetry)
        socket = ResponsesSocket(calls, self._store, self._telemetry)
        return [route.router(), socket.router()]

    async def close(self) -> None:
        """End background work; before the models are ended and the store is closed."""
        await self._jobs.close()
