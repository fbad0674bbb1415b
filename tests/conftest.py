"""What every test runs under: a home of its own, no network beyond loopback, fixed examples.

The environment is changed when this file is imported, before any module of the project is, and
is inherited by the servers and workers that tests start.
"""

import atexit
import ipaddress
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Short, because the worker's UNIX sockets live below it and macOS allows 104 bytes for a path.
SCRATCH = Path(tempfile.mkdtemp(prefix="lmx-", dir="/tmp"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

# The same examples in every run; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def _keep_client_settings(home: Path) -> None:
    """Let pip and npm in child processes find the user's own index, certificates and cache."""
    config = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    mac = home / "Library" / "Application Support"
    for pip in (config / "pip/pip.conf", mac / "pip/pip.conf", home / ".pip/pip.conf"):
        if pip.is_file():
            os.environ.setdefault("PIP_CONFIG_FILE", str(pip))
    caches = home / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    cache = Path(os.environ.get("XDG_CACHE_HOME", caches)) / "pip"
    if cache.is_dir():
        os.environ.setdefault("PIP_CACHE_DIR", str(cache))
    if (home / ".npmrc").is_file():
        os.environ.setdefault("NPM_CONFIG_USERCONFIG", str(home / ".npmrc"))


_KEPT = {"LMX_TEST_CACHE", "LMX_CHROMIUM"}


def _isolate() -> None:
    """Point every per-user folder at the scratch one and drop settings that change behaviour."""
    _keep_client_settings(Path.home())
    for name in list(os.environ):
        if name.startswith(("LMX_", "HF_", "XDG_", "OPENAI_")) and name not in _KEPT:
            del os.environ[name]
    (SCRATCH / "home").mkdir()
    os.environ["HOME"] = str(SCRATCH / "home")
    os.environ["LMX_HOME"] = str(SCRATCH / "lmx")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,::1,localhost"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A run in the background inherits that, and so would the programs that tests interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)


_isolate()

# Every HTTP client reads all root certificates (25 ms), and no test asks whom they vouch for.
ssl.create_default_context = cache(ssl.create_default_context)


class BeyondLoopbackError(AssertionError):
    """A test tried to reach another machine."""


def _is_local(host: object) -> bool:
    if host is None or host in ("", "localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.strip("[]")).is_loopback
    except ValueError:
        return False


def _guarded(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a socket method whose last argument is an address."""

    def call(self: socket.socket, *args: Any) -> Any:
        address = args[-1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise BeyondLoopbackError(f"connection to {address[0]}: tests stay on loopback")
        return original(self, *args)

    return call


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Refuse connections and name look-ups that leave this machine.

    Child processes are free: the starters are fetched by pip in one.
    """
    resolve = socket.getaddrinfo

    def resolve_locally(host: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(host, str) and host.endswith(".invalid"):
            # Reserved for names that never exist; no need to ask anybody.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not _is_local(host):
            raise BeyondLoopbackError(f"look-up of {host!r}: tests stay on loopback")
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", resolve_locally)
        yield
