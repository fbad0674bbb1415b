"""Where no server runs here, a conversation has one of its own, and a model to talk to."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import typer

from opta_lmx.cli.checks import is_free
from opta_lmx.cli.client import CONNECT_S, LOAD_READ_S, ServerClient, connect
from opta_lmx.cli.downloads import pull_missing
from opta_lmx.cli.local import open_store
from opta_lmx.cli.session import Session, open_session, persons_key_for
from opta_lmx.cli.terminal import console, note
from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError

LOG = Path("logs") / "chat.log"
"""What a conversation's own server says, in the home; each one begins it anew."""

_HOST = "127.0.0.1"
_STARTER = "starter"
_POLL_S = 0.05
_END_S = 30.0
_LISTENING = re.compile(r"listens on (http://\S+)")
_ERROR = re.compile(r"^error: (.*) \[(\w+)\]$", re.MULTILINE)
_PATIENT = (ErrorKind.UNAVAILABLE, ErrorKind.REQUEST_TIMEOUT)


class _Choice(NamedTuple):
    """The model as requests name it, and the id under which it is loaded first."""

    asked: str
    load: str


@contextlib.contextmanager
def reach(
    config: Path | None, url: str | None, key: str | None, model: str | None
) -> Generator[tuple[ServerClient, str | None]]:
    """A client of the server to talk to, and the model to ask for if that is known.

    Where no address is given and nobody listens at the configured one, which is this machine's,
    a server is started for the time of the block; a model that is not here is fetched before.

    Raises:
        LmxError: what keeps the server or the model away.
        typer.Exit: Ctrl-C.
    """
    session = open_session(config)
    if url is None and _is_here(session) and not _listens(session):
        with _ended_by_signals():
            choice = _prepared(session, model)
        if choice is not None:
            with _running(session, config, choice.load) as client:
                yield client, choice.asked
            return
    with connect(config, url, key, persons_key_for) as client:
        yield client, model


def _is_here(session: Session) -> bool:
    """True where the configured address is one of this machine's."""
    try:
        return is_free(session.settings.server.host, 0)
    except OSError:
        return False


def _listens(session: Session) -> bool:
    """True where somebody takes connections at the configured address, or does not say no."""
    place = urlsplit(session.server_url)
    try:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def _prepared(session: Session, wanted: str | None) -> _Choice | None:
    """The model to talk to, fetched if need be; None where there is none and none may be had."""
    if wanted is None and (wanted := _stored(session)) is None:
        if not session.settings.models.downloads_enabled:
            return None
        _check_home(session)
        _check_engines()
        note(
            f"No server answers at {session.server_url} and no model to talk to is here: "
            "the starter is fetched, which is small."
        )
        return _Choice(_STARTER, pull_missing(session, _STARTER))
    _check_home(session)
    note(f"No server answers at {session.server_url}: this conversation gets one of its own.")
    try:
        return _Choice(wanted, _served(session, wanted))
    except LmxError as error:
        if error.code != ErrorKind.MODEL_NOT_FOUND.value:
            raise
    pulled = pull_missing(session, wanted)
    return _Choice(pulled, pulled)


def _stored(session: Session) -> str | None:
    """The first model of the store that can be talked to."""
    usable = (one for one in open_store(session).list() if one.broken is None)
    return next((one.name for one in usable if one.kind == "chat"), None)


def _served(session: Session, ref: str) -> str:
    """The id under which a server would serve what is on disk. Raises MODEL_NOT_FOUND."""
    from opta_lmx.api.preset_files import parse_preset
    from opta_lmx.engine.planner import Planner
    from opta_lmx.engine.presets import Directory
    from opta_lmx.models.presets import FOLDER, Presets

    settings = session.settings
    planner = Planner(open_store(session), settings.engine, session.home, settings.models)
    presets = Presets(session.home / FOLDER, parse_preset)
    found = Directory(planner, presets, settings.models.aliases)
    found.reload()
    return found.canonical(ref)


def _check_home(session: Session) -> None:
    """Refuse, before anything is fetched, a home that a server on another port holds."""
    from opta_lmx.startup import HomeLock

    try:
        with HomeLock(session.home) as lock:
            lock.acquire(session.server_url)
    except LmxError as error:
        if error.code != "home_in_use":
            raise
        raise LmxError(
            error.kind, f"{error.message} Talk to that one with --url.", code=error.code
        ) from None


def _check_engines() -> None:
    """Refuse where no engine could run what is to be fetched."""
    from opta_lmx.backends import registry

    if registry.missing_modules("mlx"):
        registry.require("gguf")


@contextlib.contextmanager
def _running(session: Session, config: Path | None, model: str) -> Generator[ServerClient]:
    """A server for the time of the block, with `model` loaded, that only its client may ask."""
    log = session.home / LOG
    key = secrets.token_urlsafe(32)
    process = _start(log, config, model, key)
    try:
        with _ended_by_signals():
            url = _address(process, log)
            client = ServerClient(url, key)
        with client:
            with _ended_by_signals(), console(err=True).status(f"Loading {model}…"):
                _wait_ready(process, log, client, SystemClock())
            yield client
    finally:
        _end(process)


def _start(log: Path, config: Path | None, model: str, key: str) -> "subprocess.Popen[bytes]":
    """Begin `opta-lmx serve` on a free port of its own; its end is that of its standard input."""
    command = [sys.executable, "-m", "opta_lmx.cli.main", "serve", "--leash"]
    command += ["--host", _HOST, "--port", "0", "--model", model]
    command += ["--config", str(config)] if config else []
    own = {
        "LMX_SERVER__API_KEYS": json.dumps([key]),
        # It answers this conversation alone, wherever the configured one listens.
        "LMX_SECURITY__PROFILE": "loopback",
        "LMX_SECURITY__TRUSTED_PROXIES": "[]",
        "LMX_TLS__CERTIFICATE": "",
        "LMX_TLS__KEY": "",
        "LMX_TLS__CLIENT_CA": "",
        "LMX_TLS__CLIENT_CERTIFICATES": "off",
        "LMX_TLS__MAPPING": "[]",
        "LMX_TLS__GATEWAY": "[]",
        "LMX_SERVER__DRAIN_TIMEOUT_S": "0",
        # Whoever wants to talk has not asked for other downloads to go on.
        "LMX_MODELS__RESUME_DOWNLOADS": "false",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=os.environ | own,
            # Ctrl-C at the terminal stops an answer, not the server.
            start_new_session=True,
        )


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Where the server listens, once it says so. Raises LmxError where it ends before."""
    while True:
        if found := _LISTENING.search(_text(log)):
            return found.group(1)
        _check_alive(process, log)


def _wait_ready(
    process: "subprocess.Popen[bytes]", log: Path, client: ServerClient, clock: Clock
) -> None:
    """Return once the model is loaded. Raises LmxError where it cannot be."""
    deadline = clock.monotonic() + LOAD_READ_S
    while True:
        try:
            client.get("/readyz")
        except LmxError as error:
            if error.kind not in _PATIENT or clock.monotonic() > deadline:
                raise
        else:
            return
        _check_alive(process, log)


def _check_alive(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait a moment. Raises LmxError, with the server's own reason, where it ended."""
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return
    said = _ERROR.findall(_text(log))
    reason, code = said[-1] if said else (f"exit status {process.returncode}", "server_failed")
    raise LmxError(
        ErrorKind.UNAVAILABLE,
        f"The conversation's own server ended: {reason.rstrip('.')}; its log is {log}",
        code=code,
    )


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the server by its leash, and wait until it and its workers are gone.

    Ctrl-C ends the waiting alone: what is on a leash goes without being watched.
    """
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(KeyboardInterrupt):
        _await_end(process)


def _await_end(process: "subprocess.Popen[bytes]") -> None:
    for last in (process.terminate, process.kill):
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            last()
        else:
            return
    process.wait()


@contextlib.contextmanager
def _ended_by_signals() -> Generator[None]:
    """End in order when told to, and by Ctrl-C with its status, while things are made ready.

    Not for the conversation itself: readline may keep a signal back until a key is pressed.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    if threading.current_thread() is not threading.main_thread():
        before.clear()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, _leave)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
