"""What is found in the prefix cache, counted to the token, over HTTP in three dialects."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.claws import DIALECTS, Claw, Dialect
from tests.support.prefix_server import PrefixServer, prefix_server
from tests.support.sim import SimResolver
from tests.support.waiting import wait_until

MODEL = "m"


def serve(home: Path, script: dict[str, Any] | None = None, **sections: Any) -> Any:
    plain = {"context": 32_768, "caches": "trimmable", "reply": "one two three four"}
    resolver = SimResolver(home / "logs", {MODEL: plain | (script or {})})
    memory = {"engine": {"prefix_cache_bytes": 2**30}}
    return prefix_server(home, resolver, **{**memory, **sections})


def hold_turn(server: PrefixServer, claw: Claw) -> float:
    """A turn; the part of what an earlier request had that came from the cache."""
    claw.turn()
    return claw.cached / max(1, server.asked.shared[-1])


@pytest.mark.parametrize("caches", ["trimmable", "whole"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_session_of_ten_turns(tmp_path: Path, dialect: Dialect, caches: str) -> None:
    with serve(tmp_path, {"caches": caches}) as server:
        claw = Claw(server.http, MODEL, dialect, "one")
        claw.turn()
        assert claw.cached == 0
        shares = [hold_turn(server, claw) for _ in range(9)]
        assert min(shares) >= 0.98
        other = Claw(server.http, MODEL, dialect, "two")
        assert hold_turn(server, other) >= 0.98
        if dialect == "completions":
            assert other.cached >= 0.8 * other.prompt


def test_the_count_is_the_same_everywhere(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        claws = [Claw(server.http, MODEL, dialect, dialect) for dialect in DIALECTS]
        turns = [claw for claw in claws for _ in range(3)]
        queries = hits = 0
        for claw in turns:
            claw.turn()
            assert claw.cached == server.asked.shared[-1]
            queries, hits = queries + claw.prompt, hits + claw.cached
        assert server.metric("prefix_cache_queries_total") == queries
        assert server.metric("prefix_cache_hits_total") == hits
        assert server.metric("prefix_cache_corrections_total") == 0
        assert server.metric("prefix_cache_bytes") > 0


def test_without_memory_nothing_is_kept(tmp_path: Path) -> None:
    with serve(tmp_path, engine={"prefix_cache_bytes": 0}) as server:
        claw = Claw(server.http, MODEL, "completions", "one")
        assert [(claw.turn(), claw.cached)[1] for _ in range(2)] == [0, 0]


def test_prompts_beyond_the_budget_push_others_out(tmp_path: Path) -> None:
    with serve(tmp_path, engine={"prefix_cache_bytes": 20_000_000}) as server:
        for name in ("one", "two", "three"):
            Claw(server.http, MODEL, "completions", name).turn()
        assert server.metric("prefix_cache_evictions_total") > 0
        assert server.metric("prefix_cache_bytes") <= 20_000_000


def test_tenants_share_nothing(tmp_path: Path) -> None:
    keys = [{"name": name, "key": f"secret-{name}", "tenant": name} for name in ("a", "b")]
    with serve(tmp_path, access={"keys": keys}) as server:
        mine, theirs = (
            httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer secret-{name}"})
            for name in ("a", "b")
        )
        with mine, theirs:
            claws = [Claw(http, MODEL, "completions", "same") for http in (mine, theirs, mine)]
            for claw in claws:
                claw.turn()
        assert [claw.cached > 0 for claw in claws] == [False, False, True]


def test_answers_side_by_side_process_the_prompt_once(tmp_path: Path) -> None:
    with serve(tmp_path, {"prefill_ms_per_token": 0.02}) as server:
        words = " ".join(["word"] * 1000)
        body = {"model": MODEL, "messages": [{"role": "user", "content": words}], "n": 4}
        reply = server.http.post("/v1/chat/completions", json=body).json()
        assert len(reply["choices"]) == 4
        joined = [request for request in server.asked.requests if request.reuse is not None]
        assert len(joined) == 3
        length = len(server.asked.requests[0].ids)
        found = {request.reuse.tokens for request in joined if request.reuse is not None}
        assert found == {length - 1}
        assert server.metric("prefix_cache_corrections_total") == 0


def test_after_a_crash_nothing_is_expected_of_the_new_worker(tmp_path: Path) -> None:
    with serve(tmp_path, {"die_at_step": 7, "resumes": "all"}) as server:
        claw = Claw(server.http, MODEL, "completions", "one")
        answers = [claw.turn() for _ in range(3)]  # the worker dies within the second
        assert answers == [answers[0]] * 3
        assert server.app.engine.status()[0].restarts >= 1
        resumed = [request for request in server.asked.requests if request.generated]
        assert [request.reuse for request in resumed] == [None] * len(resumed) != []
        assert server.metric("prefix_cache_corrections_total") == 0


def test_rested_states_go_to_disk_and_come_back(tmp_path: Path) -> None:
    disk = {"engine": {"prefix_cache_bytes": 2**30, "prefix_cache_disk_bytes": 2**30}}
    script = {"prefill_ms_per_token": 0.1}
    with serve(tmp_path, script, **disk) as server:
        claw = Claw(server.http, MODEL, "completions", "one")
        claw.turn()
    folder = tmp_path / "cache" / "prefix"
    files = list(folder.rglob("*.kv"))
    assert files
    assert {path.stat().st_mode & 0o777 for path in (folder, files[0].parent)} == {0o700}
    (files[0].parent / "half.kv").write_bytes(b"not whole")
    (files[0].parent / "left.kv.part").write_bytes(b"")
    with serve(tmp_path, script, **disk) as server:
        claw = Claw(server.http, MODEL, "completions", "two")
        claw.turn()
        assert claw.cached >= 0.8 * claw.prompt
        assert server.metric("prefix_cache_disk_bytes") > 0
        left = {path.name for path in files[0].parent.iterdir()}
        assert not left & {"half.kv", "left.kv.part"}


def test_a_broken_file_costs_time_only(tmp_path: Path) -> None:
    disk = {"engine": {"prefix_cache_bytes": 2**30, "prefix_cache_disk_bytes": 2**30}}
    script = {"prefill_ms_per_token": 0.1}
    with serve(tmp_path, script, **disk) as server:
        Claw(server.http, MODEL, "completions", "one").turn()
    files = list((tmp_path / "cache" / "prefix").rglob("*.kv"))
    for path in files:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with serve(tmp_path, script, **disk) as server:
        claw = Claw(server.http, MODEL, "completions", "one")
        claw.turn()
        assert claw.cached == 0
        wait_until(lambda: not any(path.exists() for path in files[:1]))
