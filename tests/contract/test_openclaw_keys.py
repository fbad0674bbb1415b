"""Nothing that OpenClaw was seen to send is refused, in any of its modes, on either backend."""

import pytest

from tests.contract.matrix.model import BACKENDS
from tests.contract.openclaw_keys import MODES, Json, Mode
from tests.support.process import ServerProcess

CASES = [
    pytest.param(mode, extra, id=f"{name}-{','.join(extra) or 'usual'}-{place}")
    for name, mode in MODES.items()
    for place, extra in enumerate(({}, *mode.also))
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("mode", "extra"), CASES)
def test_it_is_answered(tiny_server: ServerProcess, mode: Mode, extra: Json, backend: str) -> None:
    body = {"model": f"tiny-{backend}", **mode.body, **extra}
    reply = tiny_server.http.post(tiny_server.url + mode.path, json=body, headers=mode.headers)
    assert reply.status_code == 200, reply.text
    streamed = reply.headers["content-type"].startswith("text/event-stream")
    assert streamed == body["stream"]


def test_each_header_alone_changes_nothing(tiny_server: ServerProcess) -> None:
    """Unknown headers are ignored, and none of the known ones makes a request fail."""
    for mode in MODES.values():
        body = {"model": "tiny-gguf", **mode.body, "stream": False}
        body.pop("stream_options", None)
        for name, value in mode.headers.items():
            reply = tiny_server.http.post(
                tiny_server.url + mode.path, json=body, headers={name: value}
            )
            assert reply.status_code == 200, (name, reply.text)


def test_the_instance_of_a_load_is_a_model(tiny_server: ServerProcess) -> None:
    """As the `lmstudio` provider goes about it: list, load, chat with what was loaded."""
    http, url = tiny_server.http, tiny_server.url
    headers = MODES["lmstudio"].headers
    listed = http.get(f"{url}/api/v1/models", headers=headers).json()["models"]
    key = next(model["key"] for model in listed if model["type"] == "llm")
    wanted = {"model": key, "context_length": 64}
    loaded = http.post(f"{url}/api/v1/models/load", json=wanted, headers=headers).json()
    assert loaded["status"] == "loaded"
    body = {**MODES["lmstudio"].body, "model": loaded["instance_id"]}
    answer = http.post(f"{url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
