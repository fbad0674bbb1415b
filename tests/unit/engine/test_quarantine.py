"""Crashes are counted over loads and restarts of the server, and lead to quarantine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Load
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.quarantine import Health
from opta_lmx.engine.recovery import Recovery, RecoveryOptions
from opta_lmx.engine.suspects import Verdict
from opta_lmx.engine.vitals import ended
from opta_lmx.scheduling.retry import RestartPolicy
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock

CRASH = ended("m", "died", -11)


async def unused() -> Load:
    raise AssertionError


def plan(ref: str, context: int = 0) -> Plan:
    return Plan(ref, "gguf", 1, unused, {}, Path("log"), context=context)


def policy() -> RestartPolicy:
    return RestartPolicy(backoff_s=1.0, backoff_max_s=4.0, max_restarts=2, window_s=100.0)


def health(path: Path | None, clock: HandClock) -> Health:
    return Health(path, policy, clock, NullTelemetry())


@in_loop
async def test_one_crash_too_many_is_quarantine() -> None:
    clock = HandClock(1000)
    books = health(None, clock)
    assert [books.crashed("m", "gguf", CRASH) for _ in range(3)] == [1.0, 2.0, None]
    with pytest.raises(LmxError) as told:
        books.refuse("m")
    assert (told.value.kind, told.value.code) == (ErrorKind.UNAVAILABLE, "model_quarantined")
    assert told.value.retry_after == 60
    for words in ("signal 11", "POST /admin/models/m/reset", "opta-lmx reset m"):
        assert words in told.value.message
    (one,) = books.quarantined()
    assert (one.model, one.backend, one.code) == ("m", "gguf", "worker_died")
    assert (one.since, one.crashes) == (1000, 3)
    books.refuse("other")


@in_loop
async def test_it_outlives_the_server_until_it_is_reset(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", HandClock(1000)
    for _ in range(3):  # each in a run of its own
        books = health(path, clock)
        books.crashed("m", "mlx", CRASH)
        await books.saved()
    clock.now += 1e6  # quarantine does not end by itself
    books = health(path, clock)
    assert books.holds("m")
    assert (books.reset("m") is not None, books.reset("m")) == (True, None)
    await books.saved()
    books = health(path, clock)
    assert books.quarantined() == []
    assert books.crashed("m", "mlx", CRASH) == 1.0


@in_loop
async def test_old_crashes_are_forgiven_and_forgotten(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", HandClock(1000)
    books = health(path, clock)
    for _ in range(5):
        assert books.crashed("m", "gguf", CRASH) == 1.0
        clock.now += 100
    books.crashed("other", "gguf", CRASH)
    await books.saved()
    assert (books.knows("m"), books.knows("other")) == (False, True)
    assert b'"m"' not in path.read_bytes()


@in_loop
async def test_a_clock_set_back_forgives() -> None:
    clock = HandClock(1000)
    books = health(None, clock)
    books.crashed("m", "gguf", CRASH)
    books.crashed("m", "gguf", CRASH)
    clock.now = 500
    assert books.crashed("m", "gguf", CRASH) == 1.0


@in_loop
async def test_the_pause_after_a_crash_that_is_not_counted_is_the_last_one() -> None:
    books = health(None, HandClock(7))
    assert [books.pause_s("m"), books.pause_s("m")] == [1.0, 1.0]
    assert not books.knows("m")
    assert [books.crashed("m", "gguf", CRASH) for _ in range(2)] == [1.0, 2.0]
    assert books.pause_s("m") == 2.0


@in_loop
async def test_crashes_that_are_a_requests_make_the_pauses_longer_and_count_no_more() -> None:
    clock = HandClock(7)
    recovery = Recovery(RecoveryOptions(policy), clock, NullTelemetry())
    books, watched = recovery.health, recovery.started(plan("m"), "request")
    for pauses in ([1.0, 2.0], [4.0, 4.0], [4.0, 4.0]):
        verdicts = (Verdict.OPEN, Verdict.REQUEST)
        assert [watched.ended(CRASH, verdict) for verdict in verdicts] == pauses
        assert not books.knows("m")
    clock.now += 200
    assert watched.ended(CRASH) == 1.0


@in_loop
async def test_only_what_was_counted_with_a_request_is_forgiven_it() -> None:
    recovery = Recovery(RecoveryOptions(policy), HandClock(7), NullTelemetry())
    books, watched = recovery.health, recovery.started(plan("m"), "request")
    watched.ended(CRASH)  # the model's own
    watched.ended(None)  # memory was short
    watched.ended(CRASH, Verdict.REQUEST)
    assert books.knows("m")
    watched.ended(CRASH)
    for _ in range(2):  # two that came together
        watched.ended(CRASH, Verdict.REQUEST)
    assert books.knows("m")


class Logged(NullTelemetry):
    """Keeps the events of what is logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def log(self, level: str, event: str, **fields: object) -> None:
        self.events.append(event)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"m": 3}', b'{"m": {"crashes_ms": "x"}}', b"\xff", b"[" * 99999]
)
@in_loop
async def test_a_file_that_is_not_ours_holds_nothing_against_anybody(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "health.json"
    logged = Logged()
    assert Health(path, policy, HandClock(1), logged).quarantined() == []
    assert logged.events == []
    path.write_bytes(content)
    assert Health(path, policy, HandClock(1), logged).quarantined() == []
    assert logged.events == ["state not read"]
    assert (path.exists(), (tmp_path / "health.json.bad").read_bytes()) == (False, content)


@in_loop
async def test_what_engines_say_at_their_end_is_kept_in_part(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    books = health(path, HandClock(1))
    assert len(ended("m", "died", 4, "words " * 1000).message) < 1000
    for _ in range(3):
        books.crashed("m", "mlx", LmxError(ErrorKind.INTERNAL, "words " * 300_000))
    await books.saved()
    assert path.stat().st_size < 1000
    assert health(path, HandClock(1)).holds("m")


@in_loop
async def test_a_disk_that_fails_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    books = health(tmp_path / "home" / "health.json", HandClock(1))
    assert books.crashed("m", "gguf", CRASH) == 1.0
    await books.saved()
    assert books.knows("m")


LOADS = {
    "load_timeout": True,
    "load_crashed": True,
    "canary_failed": True,
    "load_failed": False,
    "missing_extra": False,
    "model_too_large": False,
    "memory_busy": False,
    "insufficient_disk": False,
    "draft_refused": False,
    "model_unloaded": False,
}


@pytest.mark.parametrize("code", LOADS)
@in_loop
async def test_only_the_models_own_failures_to_load_count(code: str) -> None:
    books = Recovery(RecoveryOptions(policy), HandClock(1), NullTelemetry())
    watched = books.started(plan("m"), "request")
    cause = LmxError(ErrorKind.UNAVAILABLE, "It did not load.", code=code)
    told = [watched.not_loaded(cause).code for _ in range(4)]
    counted = [code, code, "model_quarantined", "model_quarantined"]
    assert told == (counted if LOADS[code] else [code] * 4)
    assert books.health.holds("m") is LOADS[code]


@in_loop
async def test_nothing_counts_once_the_server_is_told_to_stop() -> None:
    books = Recovery(RecoveryOptions(policy), HandClock(1), NullTelemetry())
    watched = books.started(plan("m"), "request")
    books.stopping()
    cause = LmxError(ErrorKind.UNAVAILABLE, "It did not load.", code="load_crashed")
    assert (watched.not_loaded(cause), watched.ended(CRASH)) == (cause, 1.0)
    assert not books.health.knows("m")


@in_loop
async def test_a_reset_is_on_the_disk_when_it_is_told(tmp_path: Path) -> None:
    books = Recovery(RecoveryOptions(policy, tmp_path), HandClock(1), NullTelemetry())
    for _ in range(3):
        books.health.crashed("m", "gguf", CRASH)
    await books.health.saved()
    assert b'"m"' in (tmp_path / "health.json").read_bytes()
    assert await books.reset("m", str) == ("m", True)
    assert b'"m"' not in (tmp_path / "health.json").read_bytes()


@given(st.lists(st.sampled_from(["crash", "later", "reset", "restart"]), max_size=30))
def test_whatever_happens_it_is_quarantined_exactly_when_the_rule_says(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    path = tmp_path_factory.mktemp("home") / "health.json"

    @in_loop
    async def main() -> None:
        clock, crashes, out = HandClock(1000), list[float](), False
        books = health(path, clock)
        for event in events:
            if event == "crash" and not out:
                crashes = [*(when for when in crashes if clock.now - when < 100), clock.now]
                out = len(crashes) > 2
                assert (books.crashed("m", "gguf", CRASH) is None) is out
            elif event == "later":
                clock.now += 60
            elif event == "reset":
                crashes, out = [], False
                books.reset("m")
            elif event == "restart":
                await books.saved()
                books = health(path, clock)
            assert books.holds("m") is out
        await books.saved()

    main()
