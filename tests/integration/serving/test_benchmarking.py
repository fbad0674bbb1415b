"""Benchmarks over HTTP and from the terminal, of scripted models in real workers."""

import json
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from opta_lmx.cli.main import app
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

TEXT = " ".join(f"word{number}" for number in range(400))
SCRIPTS: dict[str, dict[str, Any]] = {
    "m": {"reply": TEXT, "step_ms": 2, "prefill_ms_per_token": 0.02, "context": 16_384},
    "slow": {"reply": TEXT, "step_ms": 50},
    "brief": {"reply": "that is all"},
    "parrot": {"reply": "polly wants a cracker " * 100},
    "e": {"kind": "embedding"},
}
SMALL = {"num_output_tokens": 50, "runs": 3, "warmup_runs": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with sim_server(tmp_path_factory.mktemp("bench"), SCRIPTS) as found:
        for model in SCRIPTS:
            if model != "e":
                load = {"model": model}
                httpx.post(f"{found.url}/admin/models/load", json=load, timeout=30)
        yield found


def bench(server: LiveServer, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, **SMALL, **fields}
    return httpx.post(f"{server.url}/admin/benchmark/run", json=body, timeout=60)


def results(server: LiveServer, **query: Any) -> httpx.Response:
    return httpx.get(f"{server.url}/admin/benchmark/results", params=query, timeout=30)


def refused(reply: httpx.Response) -> tuple[int, str, str | None]:
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


def test_a_model_is_measured_and_the_result_kept(server: LiveServer) -> None:
    reply = bench(server, "m", warmup_runs=1, prompt_tokens=500)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert (found["model"], found["backend"], found["engine"]) == ("m", "sim", "sim")
    assert (found["status"], found["coherence"], found["disturbed"]) == ("ok", "ok", False)
    assert (found["answers"], found["output_tokens"], found["cached_tokens"]) == (3, 50, 0)
    assert 400 <= found["prompt_tokens"] <= 600
    # The script's own times: 2 ms a token, 0.02 ms for each of the prompt's.
    assert found["inter_token_ms"]["p50"] >= 2
    assert found["tokens_per_s"]["p50"] <= 500
    assert found["ttft_ms"]["p50"] >= 8
    assert found["ttft_ms"]["p50"] <= found["ttft_ms"]["p95"]
    assert found["machine"]["cores"] >= 1
    assert found["stored"]
    listed = results(server, model="m").json()["data"]
    assert listed[0] == {name: found[name] for name in found if name != "stored"}
    assert all(one["model"] == "m" for one in listed)


def test_the_newest_comes_first_and_models_are_kept_apart(server: LiveServer) -> None:
    first, second = (bench(server, "brief").json()["id"] for _ in range(2))
    listed = results(server, model="brief").json()["data"]
    assert [one["id"] for one in listed[:2]] == [second, first]
    assert [one["id"] for one in results(server, limit=1).json()["data"]] == [second]
    assert results(server, model="never-measured").json()["data"] == []


@pytest.mark.parametrize(("model", "said"), [("brief", "truncated"), ("parrot", "repetitive")])
def test_what_is_wrong_with_the_answers_is_said(server: LiveServer, model: str, said: str) -> None:
    assert bench(server, model).json()["coherence"] == said


def test_one_answer_is_too_little_to_judge_by(server: LiveServer) -> None:
    assert bench(server, "m", runs=1).json()["status"] == "insufficient_data"


def test_answers_side_by_side_leave_a_slot_to_others(server: LiveServer) -> None:
    found = bench(server, "m", concurrency=3).json()
    assert found["answers"] == 9
    assert found["total_tokens_per_s"]["p50"] > 1.5 * found["tokens_per_s"]["p50"]
    assert found["disturbed"] is False
    refusal = bench(server, "m", concurrency=4)
    assert refused(refusal) == (400, "invalid_request", "concurrency")
    assert "at most 3" in refusal.json()["error"]["message"]


def over(server: LiveServer) -> None:
    """Wait until the server has noticed that a benchmark's client is gone."""
    wait_until(lambda: not server.app.rooms.benchmarks._running, 10)


def test_others_who_are_served_meanwhile_are_told_of(server: LiveServer) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        wait_until(lambda: server.status("slow")["running"] == 1)
        found = bench(server, "m").json()
        assert next(lines) is not None
    assert (found["disturbed"], found["others"]["most"]) == (True, 1)
    assert found["others"]["share"] > 0.9


def test_a_benchmark_stops_with_its_client(server: LiveServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/admin/benchmark/run",
            json={"model": "slow", "runs": 20, "num_output_tokens": 300},
            timeout=httpx.Timeout(30, read=0.5),
        )
    over(server)
    wait_until(lambda: not server.status("slow")["running"], 5)
    assert server.status("slow")["waiting"] == 0
    assert bench(server, "brief").status_code == 200  # and the next may begin


def test_two_would_disturb_one_another(server: LiveServer) -> None:
    stop = threading.Event()

    def first() -> None:
        url, body = f"{server.url}/admin/benchmark/run", {"model": "slow", "runs": 20}
        with httpx.Client(timeout=60) as client, pytest.raises(httpx.ReadTimeout):
            client.post(url, json=body, timeout=httpx.Timeout(30, read=1.5))
        stop.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        wait_until(lambda: server.status("slow")["running"] == 1)
        lines = httpx.get(f"{server.url}/admin/queue", timeout=30).json()["models"]
        (line,) = [line for line in lines if line["id"] == "slow"]
        asking = [(one["lane"], one["client"]) for one in line["clients"]]
        assert asking == [("background", "benchmark")]
        assert refused(bench(server, "m")) == (409, "benchmark_running", None)
        running.result(30)
    assert stop.is_set()
    over(server)


def test_only_a_loaded_model_is_measured(server: LiveServer) -> None:
    assert refused(bench(server, "e")) == (409, "model_not_loaded", "model")
    assert refused(bench(server, "nobody"))[:2] == (404, "model_not_found")
    assert "e" not in [one.id for one in server.app.engine.status()]
    httpx.post(f"{server.url}/admin/models/load", json={"model": "e"}, timeout=30)
    assert refused(bench(server, "e")) == (400, "model_not_chat", "model")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"num_output_tokens": 49}, "num_output_tokens"),
        ({"num_output_tokens": 2001}, "num_output_tokens"),
        ({"runs": 0}, "runs"),
        ({"runs": 21}, "runs"),
        ({"warmup_runs": 4}, "warmup_runs"),
        ({"concurrency": 0}, "concurrency"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"prompt_tokens": 20}, "prompt_tokens"),
        ({"prompt_tokens": 2_000_000_000}, "prompt_tokens"),
        ({"temperature": 0.5}, "temperature"),
        ({"tokens": 50}, "tokens"),
    ],
)
def test_what_cannot_be_done_is_refused(
    server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    reply = bench(server, "m", **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_unknown_queries_are_refused(server: LiveServer) -> None:
    assert refused(results(server, backend="mlx"))[::2] == (400, "backend")
    assert refused(results(server, limit=0))[::2] == (400, "limit")


def test_results_outlive_the_server(tmp_path: Path) -> None:
    with sim_server(tmp_path, SCRIPTS) as server:
        httpx.post(f"{server.url}/admin/models/load", json={"model": "brief"}, timeout=30)
        number = bench(server, "brief").json()["id"]
    with sim_server(tmp_path, SCRIPTS) as server:
        assert [one["id"] for one in results(server).json()["data"]] == [number]


def command(server: LiveServer, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments, "--url", server.url])


def test_from_the_terminal(server: LiveServer) -> None:
    found = command(server, "m", "-n", "50", "-r", "3", "-w", "0", "-c", "2")
    assert found.exit_code == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].startswith("m on sim: 6 answers of 50 tokens to prompts of ")
    assert lines[0].endswith(", 2 at a time")
    assert lines[1].split() == ["P50", "P95", "MEAN"]
    assert lines[2].startswith("time to first token, ms")
    assert all(float(cell) > 0 for line in lines[2:] for cell in line.split()[-3:])
    assert found.stderr == ""


def test_from_the_terminal_for_programs_and_with_remarks(server: LiveServer) -> None:
    told = command(server, "brief", "-n", "50", "-r", "1", "-w", "0")
    assert "ended long before" in told.stderr
    assert "Too few answers" in told.stderr
    found = json.loads(command(server, "brief", "-n", "50", "-r", "1", "--json").stdout)
    assert found["asked"]["output_tokens"] == 50
    refusal = command(server, "nobody")
    assert (refusal.exit_code, "[model_not_found]" in refusal.stderr) == (1, True)
