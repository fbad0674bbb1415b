"""A WebSocket client on a real socket that speaks JSON frames."""

import json
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

from tests.support.rawhttp import connected

Frame = dict[str, Any]

MESSAGES = [{"role": "user", "content": "hello there"}]
ENDS = ("chat.done", "chat.error")


class WsClient:
    """One connection to `/v1/chat/stream`.

    Args:
        url: of the server, `http://…`, or `https://…` with a context as the option `ssl`.
        path: what to open.
        headers: of the handshake.
        receive_buffer: bounds what the kernel takes while nobody reads (bytes).
        options: of the library's `connect`.
    """

    def __init__(
        self,
        url: str,
        path: str = "/v1/chat/stream",
        *,
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> None:
        parts = urlsplit(url)
        self.socket = connected(url, receive_buffer=receive_buffer)
        opening = connect(
            f"{parts.scheme.replace('http', 'ws')}://{parts.netloc}{path}",
            sock=self.socket,
            additional_headers=headers,
            **{"max_size": None, "close_timeout": 2, "proxy": None, **options},
        )
        self.connection: ClientConnection = opening.__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def say(self, **frame: Any) -> None:
        """Send one frame."""
        self.connection.send(json.dumps(frame))

    def ask(self, request_id: str | None = None, model: str = "m", **fields: Any) -> None:
        """Send a chat request."""
        named = {} if request_id is None else {"request_id": request_id}
        self.say(type="chat.request", **named, **{"model": model, "messages": MESSAGES, **fields})

    def hear(self, timeout_s: float = 20) -> Frame:
        """The next frame."""
        return json.loads(self.connection.recv(timeout_s))

    def until(self, request_id: str | None, *types: str, timeout_s: float = 20) -> Frame:
        """The next frame of that request and of one of the types (by default its end)."""
        while True:
            frame = self.hear(timeout_s)
            if frame.get("request_id") == request_id and frame["type"] in (types or ENDS):
                return frame

    def answer(self, request_id: str) -> list[Frame]:
        """All frames of a request up to its end; there must be no others."""
        frames = [self.hear()]
        while frames[-1]["type"] not in ENDS:
            frames.append(self.hear())
        assert {frame["request_id"] for frame in frames} == {request_id}
        return frames
