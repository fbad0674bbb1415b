"""One model, two engines, one server: GGUF as it is and MLX converted from it."""

from pathlib import Path

from tests.support.process import running_server
from tests.support.starters import starter_store

MESSAGES = [{"role": "user", "content": "What is the capital of France? One word."}]


def test_mlx_and_gguf_serve_the_starter_at_once(tmp_path: Path) -> None:
    settings = {
        "LMX_MODELS__DIR": str(starter_store()),
        "LMX_ENGINE__BACKEND": "gguf",
        "LMX_ENGINE__THREADS": "1",
    }
    with running_server(tmp_path, "--model", "starter", **settings) as server:
        loaded = server.load("starter", "mlx")
        assert (loaded["model"], loaded["backend"]) == ("starter:mlx", "mlx")
        for model in ("starter", "starter:mlx"):
            body = {"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
            reply = server.http.post(f"{server.url}/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            assert "Paris" in reply.json()["choices"][0]["message"]["content"]
        listed = server.http.get(f"{server.url}/v1/models").json()["data"]
        backends = {
            model["id"]: (model["x_opta"]["backend"], model["x_opta"]["state"]) for model in listed
        }
        assert backends["starter"] == ("gguf", "ready")
        assert backends["starter:mlx"] == ("mlx", "ready")
