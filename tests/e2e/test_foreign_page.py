"""A page of another site in a real Chromium, which tries what pages can: nothing comes of it.

The same page under a name that is let in does load a model, so the page's attempts are real.
"""

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from opta_lmx.models.store import ModelStore
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.weights import small_gguf

SECRET = "canary-model"
"""A model's name that no page may learn."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOREIGN, ALLOWED = "evil.example", "localhost"
PAGE = b"<!doctype html><meta charset=utf-8><title>page</title><body><iframe name=target></iframe>"
ATTEMPT_S = 5
"""How long one attempt may take before it counts as blocked."""

# What a page can do. Each returns what it could read; an exception reads nothing.
ATTEMPTS = {
    "simple load": "fetch(B + '/admin/models/load', {method: 'POST', body: LOAD}).then(text)",
    "blind load": "fetch(B + '/admin/models/load', {method: 'POST', mode: 'no-cors', body: LOAD})",
    "json load": "fetch(B + '/admin/models/load', {method: 'POST', headers: JSONTYPE, body: LOAD})"
    ".then(text)",
    "keepalive load": "fetch(B + '/admin/models/load', {method: 'POST', mode: 'no-cors',"
    " keepalive: true, body: LOAD})",
    "no referrer": "fetch(B + '/admin/models/load', {method: 'POST', mode: 'no-cors',"
    " referrerPolicy: 'no-referrer', body: LOAD})",
    "beacon": "navigator.sendBeacon(B + '/admin/models/load', LOAD)",
    "xhr": "xhr('POST', B + '/admin/models/load', LOAD)",
    "chat": "fetch(B + '/v1/chat/completions', {method: 'POST', body: CHAT}).then(text)",
    "blind chat": "fetch(B + '/v1/chat/completions', {method: 'POST', mode: 'no-cors',"
    " body: CHAT})",
    "ollama load": "fetch(B + '/api/generate', {method: 'POST', mode: 'no-cors', body: LOAD})",
    "delete": "fetch(B + '/api/delete', {method: 'DELETE', body: GONE}).then(text)",
    "blind delete": "fetch(B + '/api/delete', {method: 'POST', mode: 'no-cors', body: GONE})",
    "key": "fetch(B + '/admin/keys', {method: 'POST', mode: 'no-cors', body: KEY})",
    "ticket": "fetch(B + '/v1/ws/tickets', {method: 'POST'}).then(text)",
    "read models": "fetch(B + '/v1/models').then(text)",
    "read status": "fetch(B + '/admin/status', {credentials: 'include'}).then(text)",
    "read as image": "element('img', B + '/v1/models')",
    "read as script": "element('script', B + '/v1/models')",
    "read as style": "element('link', B + '/v1/models')",
    "read as frame": "frame(B + '/v1/models')",
    "events": "events(B + '/v1/models')",
    "form load": "form(B + '/admin/models/load', 'text/plain', LOAD)",
    "form chat": "form(B + '/v1/chat/completions', 'text/plain', CHAT)",
    "form fields": "form(B + '/admin/models/load', 'application/x-www-form-urlencoded', LOAD)",
    "form parts": "form(B + '/admin/models/load', 'multipart/form-data', LOAD)",
    "socket": "socket(W + '/v1/chat/stream')",
    "socket of responses": "socket(W + '/v1/responses')",
    "worker": "worker(`fetch('${B}/admin/models/load', {method: 'POST', mode: 'no-cors',"
    " body: '${LOAD}'})`)",
}
HELPERS = """
const text = async reply => reply.text();
const JSONTYPE = {'Content-Type': 'application/json'};
const LOAD = JSON.stringify({model: 'chat'});
const GONE = JSON.stringify({model: 'SECRET'});
const KEY = JSON.stringify({name: 'mine', scopes: ['admin', 'inference']});
const CHAT = JSON.stringify({model: 'chat', messages: [{role: 'user', content: 'a=b'}]});
const xhr = (method, url, body) => new Promise(done => {
  const request = new XMLHttpRequest();
  request.open(method, url);
  request.onloadend = () => done(request.responseText);
  request.send(body);
});
const element = (kind, url) => new Promise(done => {
  const made = document.createElement(kind);
  made.onload = () => done('loaded');
  made.onerror = () => done('');
  if (kind === 'link') made.rel = 'stylesheet';
  made[kind === 'link' ? 'href' : 'src'] = url;
  document.body.append(made);
});
const frame = url => new Promise(done => {
  const made = document.createElement('iframe');
  made.onload = () => {
    try { done(made.contentDocument.body.innerText) } catch { done('') }
  };
  made.src = url;
  document.body.append(made);
});
const events = url => new Promise(done => {
  const source = new EventSource(url);
  source.onmessage = event => done(event.data);
  source.onerror = () => { source.close(); done('') };
});
const form = (url, kind, body) => new Promise(done => {
  // With text/plain a field is sent as name=value: the body is cut at its first equals sign.
  const [name, ...rest] = body.split('=');
  const made = document.createElement('form');
  Object.assign(made, {action: url, method: 'POST', enctype: kind, target: 'target'});
  const field = document.createElement('input');
  Object.assign(field, {name, value: rest.join('=')});
  made.append(field);
  document.body.append(made);
  document.querySelector('iframe[name=target]').onload = () => done('');
  made.submit();
});
const socket = url => new Promise(done => {
  const made = new WebSocket(url);
  made.onopen = () => made.send(JSON.stringify(
    {type: 'chat.request', request_id: 'a', ...JSON.parse(CHAT)}));
  made.onmessage = event => done(event.data);
  made.onerror = made.onclose = () => done('');
});
const worker = source => new Promise(done => {
  const made = new Worker(URL.createObjectURL(new Blob([
    `${source}.finally(() => postMessage('done'))`])));
  made.onmessage = () => done('');
  made.onerror = () => done('');
});
""".replace("SECRET", SECRET)
DATA = (SECRET, "chat.accepted", "chat.done", '"choices"', "lmx_", '"ticket"')
"""What would be in an answer that a page could read."""


def chromium() -> str | None:
    """Chromium's path: as `LMX_CHROMIUM` says, or the first on PATH."""
    named = os.environ.get("LMX_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium here: run `make browser`, or set LMX_CHROMIUM"
)


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of a server that has one page, under any name."""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    yield served.server_address[1]
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Every name is this machine, so that nothing else is ever asked.
    arguments = ["--host-resolver-rules=MAP * 127.0.0.1", "--disable-background-networking"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")
    # A page of this machine is what the browser's own guards of private networks let through.
    arguments.append("--disable-features=LocalNetworkAccessChecks,OptimizationHints")
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium(), args=arguments)
        yield running
        running.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server without keys: whoever gets in may do everything."""
    source = tmp_path / "m.gguf"
    source.write_bytes(small_gguf())
    store = ModelStore(tmp_path / "models")
    store.sweep()
    store.add(source, SECRET)
    with sim_server(tmp_path, {"chat": {"reply": "one two"}, SECRET: {}}) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def tried(page: Page, server: LiveServer, attempt: str) -> str:
    """What a page can read of an attempt; empty where it is kept from it, or hears nothing."""
    base = server.url
    script = f"""async () => {{
      const B = {json.dumps(base)}, W = {json.dumps(base.replace("http", "ws", 1))};
      {HELPERS}
      const late = new Promise(done => setTimeout(() => done('late'), {ATTEMPT_S * 1000}));
      try {{ return String(await Promise.race([{attempt}, late])) }} catch {{ return 'blocked' }}
    }}"""
    return page.evaluate(script)


def is_untouched(server: LiveServer) -> bool:
    kept = ModelStore(server.settings.models.root(Path(server.app.database.path).parent))
    there = kept.find(SECRET) is not None
    return there and server.resolver.loads == [] and not server.app.keyring.required


@pytest.mark.timeout(180)
def test_a_foreign_page_changes_and_reads_nothing(
    page: Page, server: LiveServer, site: int
) -> None:
    for name, attempt in ATTEMPTS.items():
        page.goto(f"http://{FOREIGN}:{site}/")
        read = tried(page, server, attempt)
        assert not any(word in read for word in DATA), (name, read)
        assert read != "loaded", name
        assert is_untouched(server), name


@pytest.mark.timeout(180)
def test_a_page_without_an_origin_changes_and_reads_nothing(
    page: Page, server: LiveServer, site: int
) -> None:
    """A sandboxed frame's origin is `null`."""
    page.goto(f"http://{FOREIGN}:{site}/")
    page.evaluate("""() => new Promise(done => {
      const made = document.createElement('iframe');
      made.setAttribute('sandbox', 'allow-scripts allow-forms');
      made.onload = done;
      made.srcdoc = '<body><iframe name=target></iframe>';
      document.body.append(made);
    })""")
    inner = next(one for one in page.frames if one.url == "about:srcdoc")
    for name in ("simple load", "blind load", "chat", "form load", "read models", "socket"):
        read = tried(inner, server, ATTEMPTS[name])  # type: ignore[arg-type]
        assert not any(word in read for word in DATA), (name, read)
        assert is_untouched(server), name


def test_a_name_that_is_bound_anew_to_this_machine_opens_nothing(
    page: Page, server: LiveServer
) -> None:
    """DNS rebinding: for the browser the page and the server are one origin."""
    port = server.url.rpartition(":")[2]
    page.goto(f"http://{FOREIGN}:{port}/v1/models")
    assert SECRET not in page.content()
    assert "does not answer to the host name" in page.content()
    for path, how in (("/v1/models", "{}"), ("/admin/models/load", "{method:'POST',body:LOAD}")):
        script = f"async () => {{ {HELPERS} return (await fetch('{path}', {how})).text() }}"
        assert "host_not_allowed" in page.evaluate(script)
    assert is_untouched(server)


@pytest.mark.parametrize("name", ["blind load", "beacon", "form chat", "chat", "socket"])
def test_the_same_page_under_a_name_that_is_let_in_does_it(
    page: Page, server: LiveServer, site: int, name: str
) -> None:
    page.goto(f"http://{ALLOWED}:{site}/")
    read = tried(page, server, ATTEMPTS[name])
    wait_until(lambda: server.resolver.loads == ["chat"], 20)
    # Even then a page of another port reads no reply; a socket has no such rule.
    assert any(word in read for word in DATA) == (name == "socket"), read
