"""`ps`, `load` and `unload` over HTTP."""

import json

from tests.integration.cli.conftest import Command, Upstream

STATUS = {
    "version": "9.9.9",
    "uptime_s": 3725.5,
    "models": [
        {
            "id": "org/m",
            "backend": "gguf",
            "state": "ready",
            "context_length": 8192,
            "slots": 8,
            "running": 2,
            "waiting": 1,
            "restarts": 0,
            "pid": 4321,
            "rss_bytes": 734_003_200,
        },
        {"id": "new", "backend": "mlx", "state": "loading", "pid": None, "rss_bytes": None},
    ],
}


def test_ps_shows_what_runs(command: Command, upstream: Upstream) -> None:
    upstream.answer("GET", "/admin/status", STATUS)
    lines = command("ps", "--url", upstream.url).stdout.splitlines()
    assert " ".join(lines[1].split()) == "org/m gguf ready 8192 8 2 1 0 4321 734.0 MB"
    assert lines[2].split()[:3] == ["new", "mlx", "loading"]
    assert lines[3] == "Opta LMX 9.9.9, up 1 h 2 min"


def test_ps_for_programs(command: Command, upstream: Upstream) -> None:
    upstream.answer("GET", "/admin/status", STATUS)
    assert json.loads(command("ps", "--url", upstream.url, "--json").stdout) == STATUS


def test_ps_with_nothing_loaded(command: Command, upstream: Upstream) -> None:
    upstream.answer("GET", "/admin/status", {"version": "1", "uptime_s": 59, "models": []})
    assert command("ps", "--url", upstream.url).stdout.splitlines() == [
        "No model is loaded.",
        "Opta LMX 1, up 0 min 59 s",
    ]


def test_load_names_model_and_backend(command: Command, upstream: Upstream) -> None:
    upstream.answer("POST", "/admin/models/load", {"model": "m"})
    assert command("load", "m", "--url", upstream.url).exit_code == 0
    assert upstream.seen[-1].body == {"model": "m"}
    assert command("load", "m", "--backend", "mlx", "--url", upstream.url).exit_code == 0
    assert upstream.seen[-1].body == {"model": "m", "backend": "mlx"}


def test_unload(command: Command, upstream: Upstream) -> None:
    upstream.answer("POST", "/admin/models/unload", {"model": "m"})
    result = command("unload", "m", "--url", upstream.url)
    assert (result.exit_code, result.stdout) == (0, "m is unloaded.\n")
    assert upstream.seen[-1].body == {"model": "m"}


def test_reset_lets_a_model_in_again(command: Command, upstream: Upstream) -> None:
    path = "/admin/models/org%2Fm/reset"
    for was, said in ((True, "org/m is let in again."), (False, "org/m was not quarantined.")):
        upstream.answer("POST", path, {"model": "org/m", "was_quarantined": was})
        result = command("reset", "org/m", "--url", upstream.url)
        assert (result.exit_code, result.stdout) == (0, f"{said}\n")


def test_ps_says_who_is_quarantined_and_that_it_is_careful(
    command: Command, upstream: Upstream
) -> None:
    one = {"model": "m", "message": "It crashed."}
    upstream.answer(
        "GET", "/admin/status", {"version": "1", "quarantine": [one], "safe_mode": True}
    )
    assert command("ps", "--url", upstream.url).stdout.splitlines() == [
        "No model is loaded.",
        "m is quarantined: It crashed. (opta-lmx reset m)",
        "Safe mode after repeated crashes: nothing is loaded unasked.",
        "Opta LMX 1, up 0 min 0 s",
    ]


def test_a_refusal_is_passed_on(command: Command, upstream: Upstream) -> None:
    error = {"message": "The model 'm' does not exist.", "code": "model_not_found"}
    upstream.answer("POST", "/admin/models/load", {"error": error}, 404)
    result = command("load", "m", "--url", upstream.url)
    assert result.exit_code == 1
    assert "error: The model 'm' does not exist. [model_not_found]\n" in result.stderr


def test_without_a_server(command: Command, unused_url: str) -> None:
    for arguments in (("ps",), ("load", "m"), ("unload", "m")):
        result = command(*arguments, "--url", unused_url)
        assert result.exit_code == 1
        assert "server_unreachable" in result.stderr
