"""The tests' own guards hold."""

import os
import pwd
import socket
from pathlib import Path

import pytest

from tests.conftest import BeyondLoopbackError


def test_the_real_home_is_out_of_reach() -> None:
    real = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert Path.home() != real
    assert not Path(os.environ["LMX_HOME"]).is_relative_to(real)


def test_other_machines_are_out_of_reach() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plain,
        pytest.raises(BeyondLoopbackError),
    ):
        plain.connect(("192.0.2.1", 9))
    with pytest.raises(BeyondLoopbackError):
        socket.create_connection(("example.com", 80))


def test_loopback_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()[:2]).close()
