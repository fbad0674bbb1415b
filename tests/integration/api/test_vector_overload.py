"""Embeddings and rerank under pressure: the same refusals and errors as every other call."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import LiveServer, sim_server
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.alone

EMBED = ("/v1/embeddings", {"model": "m", "input": "abc"})
RERANK = ("/v1/rerank", {"model": "m", "query": "abc", "documents": ["abc", "b"]})
RERANK_2 = ("/v2/rerank", {"model": "m", "query": "abc", "documents": ["abc", "b"]})
SURFACES = [EMBED, RERANK, RERANK_2]
Surface = tuple[str, dict[str, Any]]


def scripts(**options: Any) -> dict[str, dict[str, Any]]:
    return {"m": {"kind": "embedding", **options}}


def post(server: LiveServer, surface: Surface, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{surface[0]}", json=surface[1] | more, timeout=30)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface[0])
def test_a_full_line_is_told_at_once(tmp_path: Path, surface: Surface) -> None:
    with sim_server(tmp_path, scripts(encode_ms=300), slots=1, max_waiting=1) as server:
        httpx.post(f"{server.url}/admin/models/load", json={"model": "m"}, timeout=30)
        replies = asyncio.run(_storm(server, surface, 12))
        assert {reply.status_code for reply in replies} == {200, 429}
        for reply in replies:
            if reply.status_code == 429:
                error = reply.json()
                assert error["error"]["code"] == "queue_full"
                assert error["retry_after"] == int(reply.headers["retry-after"]) >= 1
        wait_until(lambda: _idle(server))


async def _storm(server: LiveServer, surface: Surface, count: int) -> list[httpx.Response]:
    async with httpx.AsyncClient(timeout=60) as client:
        calls = [client.post(f"{server.url}{surface[0]}", json=surface[1]) for _ in range(count)]
        return list(await asyncio.gather(*calls))


def test_a_long_query_of_many_documents_does_not_multiply(tmp_path: Path) -> None:
    """400 kB with each of 1000 documents would be more than a worker can be sent at all."""
    rerank = {"m": {"kind": "rerank", "context": 600_000}}
    body = {"model": "m", "query": "q" * 400_000, "documents": ["q"] * 1000, "top_n": 1}
    with sim_server(tmp_path, rerank) as server:
        short = post(server, ("/v2/rerank", body), documents=["q", "x"])
        assert short.status_code == 200, short.text
        refused = post(server, ("/v2/rerank", body), documents=["q"] * 999 + ["x" * 300_000])
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "documents.999")
        assert server.status("m")["restarts"] == 0


def test_only_documents_are_cut(tmp_path: Path) -> None:
    """Neither kind of model may lose part of the question, which would change the ranking."""
    models = {"m": {"kind": "embedding", "context": 8}, "r": {"kind": "rerank", "context": 8}}
    body = {"query": "xyza", "documents": ["aaaa", "xxaa"], "max_tokens_per_doc": 2}
    with sim_server(tmp_path, models) as server:
        for model, score in (("m", 0.5), ("r", 0.25)):
            reply = post(server, ("/v2/rerank", body), model=model)
            assert reply.status_code == 200, reply.text
            scores = [one["relevance_score"] for one in reply.json()["results"]]
            assert scores == pytest.approx([score, score])
            assert reply.json()["meta"]["tokens"]["input_tokens"] == (8 if model == "m" else 12)
        for model in ("m", "r"):
            refused = post(server, ("/v2/rerank", body), model=model, query="x" * 9)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "query")


def _idle(server: LiveServer) -> bool:
    status = server.status("m")
    return (status["running"], status["waiting"]) == (0, 0)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface[0])
def test_a_worker_that_dies_is_a_typed_error(tmp_path: Path, surface: Surface) -> None:
    with sim_server(tmp_path, scripts(die_at_batch=2)) as server:
        assert post(server, surface).status_code == 200
        died = post(server, surface)
        assert (died.status_code, died.json()["error"]["code"]) == (500, "worker_died")
        assert post(server, surface).status_code == 200  # a new worker serves


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    watchdog = {"stall_floor_s": 0.5, "stall_factor": 1.0}
    with sim_server(tmp_path, scripts(hang_at_batch=2), engine=watchdog) as server:
        assert post(server, EMBED).status_code == 200
        hung = post(server, EMBED)
        assert (hung.status_code, hung.json()["error"]["code"]) == (500, "worker_died")
        assert post(server, EMBED).status_code == 200


def test_a_batch_the_engine_refuses_fails_alone(tmp_path: Path) -> None:
    with sim_server(tmp_path, scripts(refuse_at_batch=1)) as server:
        refused = post(server, EMBED)
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "encode_failed")
        assert post(server, EMBED).status_code == 200
        assert server.status("m")["restarts"] == 0


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface[0])
def test_wrong_requests_load_nothing(tmp_path: Path, surface: Surface) -> None:
    with sim_server(tmp_path, scripts() | {"chat": {}}) as server:
        wrong = post(server, surface, nonsense=1)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "nonsense")
        other = post(server, surface, model="chat")
        assert (other.status_code, other.json()["error"]["param"]) == (400, "model")
        unknown = post(server, surface, model="nobody")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert server.resolver.loads == []


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with sim_server(tmp_path, scripts(fail_load="no such thing")) as server:
        reply = post(server, EMBED)
        assert reply.status_code == 400
        assert "no such thing" in reply.json()["error"]["message"]


def test_a_client_that_leaves_frees_its_slot(tmp_path: Path) -> None:
    with sim_server(tmp_path, scripts(encode_ms=150), slots=1) as server:
        assert post(server, EMBED).status_code == 200
        body = httpx.Request(
            "POST", f"{server.url}/v1/embeddings", json=EMBED[1] | {"input": ["abc" * 500] * 500}
        ).read()
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: server.status("m")["running"] == 1)
        began = time.monotonic()
        wait_until(lambda: _idle(server))
        # Whole, it would take 500 batches of 150 ms.
        assert time.monotonic() - began < 10
        assert post(server, EMBED).status_code == 200


def test_small_requests_pass_a_large_one(tmp_path: Path) -> None:
    with sim_server(tmp_path, scripts(encode_ms=20)) as server:
        assert post(server, EMBED).status_code == 200
        seconds = asyncio.run(_beside_a_large_one(server))
        assert seconds["small"] < seconds["large"] / 2


async def _beside_a_large_one(server: LiveServer) -> dict[str, float]:
    url = f"{server.url}/v1/embeddings"
    seconds: dict[str, float] = {}
    began = time.monotonic()

    async with httpx.AsyncClient(timeout=60) as client:

        async def call(name: str, value: object) -> None:
            reply = await client.post(url, json={"model": "m", "input": value})
            assert reply.status_code == 200, reply.text
            seconds[name] = time.monotonic() - began

        large = asyncio.create_task(call("large", ["abc" * 1300] * 200))
        await until(lambda: server.status("m")["running"])
        await asyncio.gather(large, call("small", "abc"))
    return seconds


def test_metrics_count_tokens_and_refusals(tmp_path: Path) -> None:
    with sim_server(tmp_path, scripts()) as server:
        assert post(server, EMBED).status_code == 200
        metrics = httpx.get(f"{server.url}/metrics").text
    assert 'opta_lmx_prompt_tokens_total{model="m"} 3.0' in metrics


def test_widths_the_model_was_made_for(tmp_path: Path) -> None:
    with sim_server(tmp_path, scripts()) as server:
        whole = post(server, EMBED, input="abcx").json()["data"][0]["embedding"]
        cut = post(server, EMBED, input="abcx", dimensions=8).json()["data"][0]["embedding"]
    assert (len(whole), len(cut)) == (26, 8)
    assert sum(number * number for number in cut) == pytest.approx(1, abs=1e-5)
    assert cut[:3] == pytest.approx([number / 0.75**0.5 for number in whole[:3]], abs=1e-5)
