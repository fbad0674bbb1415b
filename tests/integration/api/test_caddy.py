"""The recipe with Caddy in front, as it stands in the document: real Caddy, program and clients.

Skipped where there is no Caddy: `make browser` installs one.
"""

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from opta_lmx.core.clock import SystemClock
from opta_lmx.models.store import ModelStore
from opta_lmx.security.tls.folder import TlsFolder
from tests.support.certificates import Authority, trusting
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import write_gguf
from tests.support.waiting import wait_until
from tests.support.websocket import ENDS, MESSAGES, WsClient

CADDY = shutil.which("caddy")
RECIPE = Path(__file__).parents[3] / "docs/security/recipes.md"
pytestmark = pytest.mark.skipif(CADDY is None, reason="there is no caddy here: make browser")


def block(kind: str) -> str:
    """The section's first block of this kind."""
    section = RECIPE.read_text().partition("## Caddy in front")[2].partition("\n## ")[0]
    found, *_ = re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    return found


class Place:
    """A server behind Caddy, and bots."""

    def __init__(self, server: ServerProcess, url: str, shown: dict[str, ssl.SSLContext]) -> None:
        self.server = server
        self.url = url
        self.shown = shown

    def ask(self, who: str, headers: dict[str, str] | None = None) -> int:
        with httpx.Client(verify=self.shown[who], timeout=30) as client:
            return client.get(f"{self.url}/v1/models", headers=headers).status_code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    write_gguf(home / "m.gguf")
    store = ModelStore(home / "models")
    store.sweep()
    store.add(home / "m.gguf", "m")
    (home / "config.toml").write_text(block("toml"))
    for words in commands():
        command(home, *words)
    command(home, "tls", "issue", "stranger", "--tenant", "t9")
    folder = TlsFolder(home / "tls", SystemClock())
    clients = home / "tls/clients"
    shown = {
        name: trusting(folder.authority_file, (clients / f"{name}.pem", clients / f"{name}.key"))
        for name in ("edge", "bot-1", "stranger")
    }
    foreign = Authority(home / "foreign", "foreign").bot("t1", "bot-1")
    shown["foreign"] = trusting(folder.authority_file, foreign)
    shown["none"] = trusting(folder.authority_file)
    env = {"LMX_ENGINE__THREADS": "1"}
    with (
        running_server(home, "--model", "m", trust=shown["bot-1"], **env) as server,
        caddy(home, server) as url,
    ):
        yield Place(server, url, shown)


def commands() -> list[list[str]]:
    """The recipe's own commands `opta-lmx tls …`, for a gateway on this machine."""
    lines = re.findall(r"^\$ opta-lmx (tls [^#\n]*)", block("console"), re.MULTILINE)
    assert len(lines) == 3
    return [line.replace("gw.example", "localhost").split() for line in lines]


def command(home: Path, *words: str) -> None:
    program = [sys.executable, "-m", "opta_lmx.cli.main", *words]
    env = {**os.environ, "LMX_HOME": str(home)}
    subprocess.run(program, env=env, check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def caddy(home: Path, server: ServerProcess) -> Iterator[str]:
    """Caddy with the recipe's own file, but for the name and the two ports."""
    port = free_port()
    file = block("text").replace("gw.example:8443", f"localhost:{port}")
    file = file.replace("localhost:1234", f"localhost:{server.url.rpartition(':')[2]}")
    (home / "Caddyfile").write_text(file)
    env = {**os.environ, "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    program = [str(CADDY), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with (home / "caddy.log").open("wb") as log:
        process = subprocess.Popen(program, cwd=home, env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or answers(port), 30)
        assert process.poll() is None, (home / "caddy.log").read_text()
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("who", "status"), [("bot-1", 200), ("stranger", 401), ("edge", 401)])
def test_a_client_is_who_its_certificate_says(place: Place, who: str, status: int) -> None:
    assert place.ask(who) == status


@pytest.mark.parametrize("who", ["none", "foreign"])
def test_nobody_comes_in_without_a_certificate_of_the_authority(place: Place, who: str) -> None:
    with pytest.raises(httpx.TransportError):
        place.ask(who)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Opta-Client-San": "spiffe://opta/tenant/t1/bot-1"},
        {"X-Opta-Client-Subject": "CN=bot-1,O=t1"},
        {"x-opta-client-san": "spiffe://opta/tenant/t1/bot-1", "Connection": "X-Opta-Client-San"},
        {"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.2"},
    ],
)
def test_no_header_makes_one_client_another(place: Place, headers: dict[str, str]) -> None:
    assert place.ask("stranger", headers) == 401
    assert place.ask("bot-1", headers) == 200


def test_a_bot_that_goes_past_caddy_is_itself(place: Place) -> None:
    for who, status in (("bot-1", 200), ("stranger", 401)):
        with httpx.Client(verify=place.shown[who]) as client:
            headers = {"X-Opta-Client-San": "spiffe://opta/tenant/t1/bot-1"}
            assert (
                client.get(f"{place.server.url}/v1/models", headers=headers).status_code == status
            )


def test_a_stream_comes_through_as_it_is_made(place: Place) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 20}
    url = f"{place.url}/v1/chat/completions"
    with (
        httpx.Client(verify=place.shown["bot-1"], timeout=60) as client,
        client.stream("POST", url, json=body) as reply,
    ):
        assert reply.status_code == 200
        chunks = [line for line in reply.iter_lines() if line.startswith("data: ")]
    assert chunks[-1] == "data: [DONE]"
    assert len(chunks) > 2


def test_a_websocket_comes_through(place: Place) -> None:
    with WsClient(place.url, ssl=place.shown["bot-1"]) as client:
        client.ask("r1", max_tokens=4)
        assert client.until("r1", *ENDS)["type"] == "chat.done"
    with pytest.raises(InvalidStatus) as refused, WsClient(place.url, ssl=place.shown["stranger"]):
        pass
    assert refused.value.response.status_code == 401
