"""SIGHUP to the real program: it takes its renewed certificate, and a stream goes on."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from cryptography import x509

from opta_lmx.models.store import ModelStore
from tests.support.certificates import trusting
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import write_gguf
from tests.support.waiting import wait_until

CONFIG = """
[tls]
certificate = "tls/server.pem"
key = "tls/server.key"
"""


def test_sighup_takes_the_renewed_certificate_and_no_stream_ends(tmp_path: Path) -> None:
    command(tmp_path, "init", "--host", "localhost")
    (tmp_path / "config.toml").write_text(CONFIG)
    write_gguf(tmp_path / "m.gguf")
    store = ModelStore(tmp_path / "models")
    store.sweep()
    store.add(tmp_path / "m.gguf", "m")
    trust = trusting(tmp_path / "tls/ca.pem")
    env = {"LMX_ENGINE__THREADS": "1"}
    with running_server(tmp_path, "--model", "m", trust=trust, **env) as server:
        before = serial(server, trust)
        body = {"model": "m", "prompt": "a", "max_tokens": 100, "stream": True}
        with server.http.stream("POST", f"{server.url}/v1/completions", json=body) as reply:
            assert reply.status_code == 200
            lines = reply.iter_lines()
            first = next(lines)
            command(tmp_path, "renew")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: serial(server, trust) != before, 10)
            rest = [line for line in lines if line]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]"
        assert server.http.get(f"{server.url}/healthz").status_code == 200
        assert server.process.poll() is None


def command(home: Path, *words: str) -> None:
    program = [sys.executable, "-m", "opta_lmx.cli.main", "tls", *words]
    env = {**os.environ, "LMX_HOME": str(home)}
    subprocess.run(program, env=env, check=True, capture_output=True, timeout=60)


def serial(server: ServerProcess, trust: ssl.SSLContext) -> int:
    """Of the certificate that a new connection is shown."""
    port = int(server.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        trust.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number
