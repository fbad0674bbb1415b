"""A short run of tests/security/fuzzing.py, the same every time; `make fuzz` runs it for long."""

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security import fuzzing, live
from tests.support.server import LiveServer, sim_server

FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, live.SCRIPTS, **fuzzing.SECTIONS) as running:
        yield running
        fuzzing.check_alive(running)


@pytest.fixture(scope="module")
def targets(server: LiveServer) -> list[fuzzing.Target]:
    found = fuzzing.targets(server)
    assert len(found) > 60
    return found


def test_requests(server: LiveServer, targets: list[fuzzing.Target]) -> None:
    @FEW
    @given(fuzzing.requests(targets))
    def run(data: bytes) -> None:
        fuzzing.check_bytes(server, data)

    run()
    fuzzing.check_alive(server)


def test_handshakes(server: LiveServer) -> None:
    @FEW
    @given(fuzzing.handshakes())
    def run(data: bytes) -> None:
        fuzzing.check_bytes(server, data)

    run()
    fuzzing.check_alive(server)


def test_bodies(server: LiveServer, targets: list[fuzzing.Target]) -> None:
    headers = {"Authorization": f"Bearer {fuzzing.KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=20) as http:

        @MANY
        @given(fuzzing.bodies(targets))
        def run(asked: tuple[fuzzing.Target, bytes]) -> None:
            fuzzing.check_body(http, *asked)

        run()
    fuzzing.check_alive(server)


def test_keys(server: LiveServer) -> None:
    """Whatever is shown: the right key opens, all else is a 401, a 429 or a 400."""

    @settings(FEW, max_examples=150)
    @given(st.one_of(fuzzing.KEYS, fuzzing.VALUES.map(lambda text: b"X-Api-Key: " + text)))
    def run(shown: bytes) -> None:
        head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        answer = fuzzing.send(server, head + shown + b"\r\n\r\n")
        good = fuzzing.KEY.encode() in shown and answer.startswith(b"HTTP/1.1 200")
        refused = answer[9:12] in (b"400", b"401", b"403", b"429", b"431", b"")
        assert good or refused, answer[:300]

    run()
    fuzzing.check_alive(server)


def test_the_check_sees_a_failure(server: LiveServer) -> None:
    with pytest.raises(AssertionError):
        assert fuzzing._STATUS.findall(b"HTTP/1.1 500 x") == []
    answer = fuzzing.send(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert fuzzing._STATUS.findall(answer) == [b"200"]
