"""WebSocket connections: the section `websocket`."""

from pydantic import Field

from opta_lmx.config.sections.base import Section


class WebsocketSettings(Section):
    """What one WebSocket connection may do."""

    max_requests_per_socket: int = Field(
        default=8, ge=1, le=1024, description="Requests one connection may have under way."
    )
