"""One model, two engines, one server: GGUF as it is and MLX converted from it."""

import pytest

from tests.support.process import ServerProcess

MESSAGES = [{"role": "user", "content": "What is the capital of France? One word."}]


@pytest.mark.engine
def test_mlx_and_gguf_serve_the_starter_at_once(starter_server: ServerProcess) -> None:
    http, url = starter_server.http, starter_server.url
    loaded = starter_server.load("starter", "mlx")
    assert (loaded["model"], loaded["backend"]) == ("starter:mlx", "mlx")
    for model in ("starter", "starter:mlx"):
        body = {"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
        reply = http.post(f"{url}/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert "Paris" in reply.json()["choices"][0]["message"]["content"]
    listed = {model["id"]: model["x_opta"] for model in http.get(f"{url}/v1/models").json()["data"]}
    for model, backend in (("starter", "gguf"), ("starter:mlx", "mlx")):
        assert (listed[model]["backend"], listed[model]["state"]) == (backend, "ready")
