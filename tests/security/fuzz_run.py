"""The long run of tests/security/fuzzing.py: `make fuzz ARGS="--seconds 600 --seed 7"`.

It ends at the first finding, with the smallest example that shows it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from hypothesis import HealthCheck, given, seed, settings

from tests.security import fuzzing, live
from tests.support.server import LiveServer, sim_server

_ROUND = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def rounds(server: LiveServer, http: httpx.Client) -> list[Callable[[], None]]:
    """One round of each kind."""
    known = fuzzing.targets(server)

    @given(fuzzing.requests(known))
    def requests(data: bytes) -> None:
        fuzzing.check_bytes(server, data)

    @given(fuzzing.handshakes())
    def handshakes(data: bytes) -> None:
        fuzzing.check_bytes(server, data)

    @given(fuzzing.bodies(known))
    def bodies(asked: tuple[fuzzing.Target, bytes]) -> None:
        fuzzing.check_body(http, *asked)

    return [requests, handshakes, bodies]


def main() -> int:
    """Run until the time is over; 0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    until, number = time.monotonic() + asked.seconds, asked.seed
    headers = {"Authorization": f"Bearer {fuzzing.KEY}"}
    with (
        tempfile.TemporaryDirectory() as home,
        sim_server(Path(home), live.SCRIPTS, **fuzzing.SECTIONS) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=30) as http,
    ):
        while time.monotonic() < until:
            for kind in rounds(server, http):
                _ROUND(seed(number)(kind))()
                fuzzing.check_alive(server)
            print(f"seed {number}: nothing found", flush=True)
            number += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
