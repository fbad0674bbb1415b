"""URLs in requests: nothing here is fetched for a client. A server that listens tells if it is.

The fields are those of the live OpenAPI document: one that is fetched later fails here, and then
goes through `security.fetch`.
"""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.security import live
from tests.support.server import LiveServer, sim_server

KEY = "sk-urls"
SHOWN = {"Authorization": f"Bearer {KEY}"}
URL = "http://127.0.0.1:{port}/{path}"


class Listener:
    """Notes what it is asked."""

    def __init__(self) -> None:
        seen: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET  # noqa: N815 - the base class wants these names
            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Silent."""

        self.seen = seen
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    running = Listener()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    # The hub is nobody's port: a download that is tried fails at once, and reaches no other.
    sections = {
        "models": {"hub_endpoint": "http://127.0.0.1:9"},
        "server": {"api_keys": [KEY]},
    }
    with sim_server(tmp_path_factory.mktemp("home"), live.SCRIPTS, **sections) as running:
        yield running


def chat(part: dict[str, Any]) -> dict[str, Any]:
    return {"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": [part]}]}


def said(part: dict[str, Any]) -> dict[str, Any]:
    return {"model": "chat", "input": [{"role": "user", "content": [part]}]}


def offered(path: str, tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    asked = (
        said({"type": "input_text", "text": "x"})
        if path == "/v1/responses"
        else chat({"type": "text", "text": "x"})
    )
    return path, {**asked, "tools": [tool]}


def naming(url: str) -> list[tuple[str, dict[str, Any]]]:
    """Requests of every dialect that name a URL where its makers let one stand."""
    completions, messages, responses = "/v1/chat/completions", "/v1/messages", "/v1/responses"
    picture = {"type": "url", "url": url}
    return [
        (completions, chat({"type": "image_url", "image_url": {"url": url}})),
        (completions, chat({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}})),
        (completions, chat({"type": "video_url", "video_url": {"url": url}})),
        (completions, chat({"type": "file", "file": {"file_data": url}})),
        (completions, {**chat({"type": "text", "text": "x"}), "web_search_options": {}}),
        (messages, chat({"type": "image", "source": picture})),
        (messages, chat({"type": "document", "source": picture})),
        (
            messages,
            {**chat({"type": "text", "text": "x"}), "mcp_servers": [{**picture, "name": "x"}]},
        ),
        offered(messages, {"type": "web_fetch_20250910", "name": "web_fetch"}),
        (responses, said({"type": "input_image", "image_url": url})),
        (responses, said({"type": "input_file", "file_url": url})),
        offered(responses, {"type": "mcp", "server_label": "x", "server_url": url}),
        offered(responses, {"type": "web_search"}),
        (
            "/api/chat",
            {"model": "chat", "messages": [{"role": "user", "content": "x", "images": [url]}]},
        ),
        ("/api/generate", {"model": "chat", "prompt": "x", "images": [url]}),
        ("/v1/embeddings", {"model": "embedding", "input": [{"image": url}]}),
        ("/v2/rerank", {"model": "rerank", "query": "x", "documents": [{"url": url}]}),
        ("/admin/models/download", {"model": url}),
        ("/api/v1/models/download", {"model": url}),
    ]


def test_requests_that_name_a_url_are_refused(server: LiveServer, listener: Listener) -> None:
    url = URL.format(port=listener.port, path="named/canary")
    for path, body in naming(url):
        reply = httpx.post(server.url + path, json=body, headers=SHOWN, timeout=30)
        assert reply.status_code == 400, (path, body, reply.status_code, reply.text)
    assert listener.seen == []


def test_no_text_of_any_body_is_fetched(server: LiveServer, listener: Listener) -> None:
    fields = 0
    with httpx.Client(base_url=server.url, headers=SHOWN, timeout=30) as client:
        for route, operation in live.operations(live.document(server, SHOWN)):
            schema = live.body_schema(operation) or {}
            for path, _ in live.leaves(schema, ("string",)):
                if not path:
                    continue
                fields += 1
                url = URL.format(port=listener.port, path=f"{fields}")
                put = live.with_value(schema, path, url)
                body = {**live.least_body(route.path, schema), path[0]: put[path[0]]}
                reply = client.request(route.method, route.asked, json=body)
                assert reply.status_code != 500, (route, path, reply.text)
    assert fields > 150
    assert listener.seen == []


def test_the_listener_hears(listener: Listener) -> None:
    httpx.get(URL.format(port=listener.port, path="heard"))
    assert listener.seen == ["/heard"]
    listener.seen.clear()
