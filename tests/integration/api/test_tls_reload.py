"""Certificates replaced under a running server: new connections get them, streams go on."""

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from tests.support.certificates import Authority, Shown, section, trusting
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import WsClient

WORDS = 400
LONG = " ".join(f"w{n}" for n in range(WORDS))
SCRIPTS = {"m": {}, "slow": {"reply": LONG, "step_ms": 10}}
MAPPING: list[dict[str, Any]] = [{"uri": "spiffe://opta/tenant/t1/*", "tenant": "t1"}]


class Place:
    """A server whose files may be replaced, two authorities, and a bot of each."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = Authority(folder / "old", "old"), Authority(folder / "new", "new")
        self.files = {name: folder / name for name in ("server.pem", "server.key", "ca.pem")}
        self.put(self.old.server())
        self.put_authority(self.old)
        self.bots = {"old": self.old.bot("t1", "a"), "new": self.new.bot("t1", "a")}
        self.server: LiveServer

    def put(self, shown: Shown) -> None:
        """Replace the server's certificate: two files, one after the other."""
        for path, name in zip(shown, ("server.key", "server.pem")[::-1], strict=True):
            self.replace(path, name)

    def put_authority(self, authority: Authority) -> None:
        self.replace(authority.file, "ca.pem")

    def replace(self, path: Path, name: str) -> None:
        beside = self.files[name].with_suffix(".new")
        shutil.copyfile(path, beside)
        beside.replace(self.files[name])

    def trusting(self, bot: str, **more: Any) -> ssl.SSLContext:
        """A client that trusts either authority's server, and shows a bot's certificate."""
        context = trusting(self.old.file, self.bots[bot], **more)
        context.load_verify_locations(self.new.file)
        return context

    def serial(self, name: str | None = "localhost") -> int:
        """Of the certificate that a new connection is shown; `name` None: none is asked for."""
        port = int(self.server.url.rpartition(":")[2])
        context = self.trusting("old")
        context.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw, server_hostname=name) as client,
        ):
            der = client.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    def lets_in(self, bot: str, **more: Any) -> bool:
        with httpx.Client(verify=self.trusting(bot, **more)) as client:
            try:
                return client.get(f"{self.server.url}/v1/models").status_code == 200
            except httpx.TransportError:
                return False

    def counted(self, sample: str) -> float:
        """A sample of `/metrics`, by its whole name; 0 where there is none."""
        headers = {"Authorization": "Bearer operators-key"}
        with httpx.Client(verify=self.trusting("old"), headers=headers) as client:
            try:
                lines = client.get(f"{self.server.url}/metrics").text.splitlines()
            except httpx.TransportError:
                return 0.0
        found = [line for line in lines if line.startswith(f"opta_lmx_{sample} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    tls = section(
        (made.files["server.pem"], made.files["server.key"]),
        client_ca=str(made.files["ca.pem"]),
        client_certificates="required",
        mapping=MAPPING,
    )
    keys = {"keys": [{"name": "o", "key": "operators-key", "tenant": "t1", "scopes": ["metrics"]}]}
    with sim_server(tmp_path / "home", SCRIPTS, tls=tls, access=keys) as server:
        made.server = server
        yield made


def serial_of(shown: Shown) -> int:
    return x509.load_pem_x509_certificate(shown[0].read_bytes()).serial_number


def words(text: str) -> int:
    return text.count("w")


def streamed(lines: Iterator[str]) -> Iterator[str]:
    """The text of each event of a streamed completion."""
    for line in lines:
        if line.startswith("data: {"):
            yield httpx.Response(200, content=line[6:]).json()["choices"][0]["text"]


def test_a_stream_ends_whole_while_all_is_replaced(place: Place) -> None:
    renewed = place.new.server()
    body = {"model": "slow", "prompt": "x", "stream": True, "max_tokens": WORDS + 9}
    with httpx.Client(verify=place.trusting("old"), timeout=30) as client:
        with client.stream("POST", f"{place.server.url}/v1/completions", json=body) as reply:
            assert reply.status_code == 200
            texts = streamed(reply.iter_lines())
            said = next(texts)
            place.put(renewed)
            place.put_authority(place.new)
            wait_until(lambda: place.lets_in("new"))
            assert not place.lets_in("old")
            assert place.server.status("slow")["running"] == 1
            said += "".join(texts)
        assert words(said) == WORDS
        # The connection was for the one stream: its certificate counts no more.
        with pytest.raises(httpx.TransportError):
            client.get(f"{place.server.url}/v1/models")


def test_a_new_certificate_is_shown_with_a_name_asked_for_or_without(place: Place) -> None:
    before, renewed = place.serial(), place.old.server("renewed")
    assert place.serial(None) == before
    place.put(renewed)
    wait_until(lambda: place.serial() == serial_of(renewed))
    assert place.serial(None) == serial_of(renewed)
    assert before != serial_of(renewed)
    assert place.counted('tls_reloads_total{outcome="done"}') >= 1


@pytest.mark.parametrize("newest", [False, True], ids=["1.2", "1.3"])
def test_who_is_vouched_for_by_the_old_authority_alone_is_refused(
    place: Place, newest: bool
) -> None:
    assert place.lets_in("old", newest=newest)
    assert not place.lets_in("new", newest=newest)
    place.put_authority(place.new)
    wait_until(lambda: place.lets_in("new", newest=newest))
    assert not place.lets_in("old", newest=newest)


def test_no_session_of_before_is_taken_up_again(place: Place) -> None:
    """Else who was let in once would stay so without being looked at."""
    port = int(place.server.url.rpartition(":")[2])
    context = place.trusting("old", newest=False)
    request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    def ask(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bytes]:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            client = context.wrap_socket(raw, server_hostname="localhost", session=session)
            with client:
                client.sendall(request)
                return client.session, client.recv(65536)

    session, reply = ask(None)
    assert reply.startswith(b"HTTP/1.1 200")
    place.put_authority(place.new)
    wait_until(lambda: not place.lets_in("old"))
    with pytest.raises(OSError, match=r"."):
        ask(session)


def test_an_idle_connection_of_the_old_authority_is_closed(place: Place) -> None:
    with httpx.Client(verify=place.trusting("old")) as client:
        assert client.get(f"{place.server.url}/v1/models").status_code == 200
        place.put_authority(place.new)
        wait_until(lambda: place.lets_in("new"))
        with pytest.raises(httpx.TransportError):
            client.get(f"{place.server.url}/v1/models")


def test_a_websocket_goes_on_and_is_refused_its_next_request(place: Place) -> None:
    options = {"ssl": place.trusting("old"), "server_hostname": "localhost"}
    with WsClient(place.server.url, **options) as client:
        client.ask("a", "slow", max_tokens=WORDS + 9)
        client.until("a", "chat.token")
        place.put_authority(place.new)
        wait_until(lambda: place.lets_in("new"))
        done = client.until("a")
        assert done["type"] == "chat.done"
        client.ask("b")
        refused = client.until("b")
    assert refused["type"] == "chat.error"
    assert refused["error"]["code"] == "certificate_ended"


def test_broken_files_change_nothing_and_are_mended_later(place: Place) -> None:
    before = place.serial()
    failed = 'tls_reloads_total{outcome="failed"}'
    for name, text in (("server.pem", "rubbish"), ("ca.pem", ""), ("server.key", "x")):
        kept, count = place.files[name].read_bytes(), place.counted(failed)
        place.files[name].write_text(text)
        wait_until(lambda seen=count: place.counted(failed) > seen)
        assert place.serial() == before
        assert place.lets_in("old")
        assert not place.lets_in("new")
        done = place.counted('tls_reloads_total{outcome="done"}')
        place.files[name].write_bytes(kept)
        wait_until(lambda seen=done: place.counted('tls_reloads_total{outcome="done"}') > seen)
    place.files["ca.pem"].unlink()
    count = place.counted(failed)
    wait_until(lambda: place.counted(failed) > count)
    assert place.lets_in("old")
    assert not place.lets_in("new")


def test_a_certificate_that_waits_for_its_key_is_taken_once_both_are_there(place: Place) -> None:
    renewed = place.old.server("renewed")
    place.replace(renewed[0], "server.pem")
    wait_until(lambda: place.counted('tls_reloads_total{outcome="failed"}') == 1)
    assert place.serial() != serial_of(renewed)
    place.replace(renewed[1], "server.key")
    wait_until(lambda: place.serial() == serial_of(renewed))


def test_the_ends_of_certificates_are_metrics(place: Place) -> None:
    pem = x509.load_pem_x509_certificate(place.files["server.pem"].read_bytes())
    told = place.counted('tls_certificate_expiry_timestamp_seconds{certificate="server"}')
    assert told == pem.not_valid_after_utc.timestamp()
    assert place.counted('tls_certificate_expiry_timestamp_seconds{certificate="client_ca"}') > told


def test_many_connections_while_files_change(place: Place) -> None:
    """Whatever is replaced meanwhile, each connection is whole."""
    failures: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            if not place.lets_in("old"):
                failures.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(3):
        renewed = place.old.server(f"renewed-{number}")
        place.put(renewed)
        wanted = serial_of(renewed)
        wait_until(lambda wanted=wanted: place.serial() == wanted)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
