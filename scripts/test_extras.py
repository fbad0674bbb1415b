"""Install one extra alone in a clean environment, start the real server, and have it answer.

Standard library only: it runs before anything is installed. Versions come from the lock.
Without an argument every extra is tried in turn.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-ci-lock.txt"
EXTRAS = ("base", "gguf", "mlx", "all", "cuda")
MISSING = {"gguf": "mlx", "mlx": "gguf", "cuda": "gguf"}
"""Which backend an environment with this extra alone has not."""
MODELS = {"all": ("starter:gguf", "starter:mlx")}
"""What is asked, where it is not just the starter on its default backend."""
READY_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 300.0


class ExtraError(Exception):
    """The extra does not do what it should; the message says what was seen."""


def say(extra: str, text: str) -> None:
    """Print one line of progress at once."""
    print(f"[{extra}] {text}", flush=True)


def constraints() -> str:
    """The lock's versions without its hashes, as a pip constraints file."""
    pins = re.findall(r"^([a-z0-9][^\\\n]*==[^\\\n]*)", LOCK.read_text(), flags=re.MULTILINE)
    return "\n".join(pin.strip() for pin in pins) + "\n"


def install(extra: str, venv: Path) -> None:
    """Make `venv` anew and install the project with this extra into it."""
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(exist_ok=True)
    pins = venv.parent / f"constraints-{venv.name}.txt"
    pins.write_text(constraints())
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    target = str(ROOT) if extra == "base" else f"{ROOT}[{extra}]"
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    log = venv / "install.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*pip, "-c", str(pins), target], stdout=output, stderr=output, env=quiet, check=False
        )
    if done.returncode != 0:
        raise ExtraError("pip failed:\n" + log.read_text()[-3000:])


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def call(url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Send one request; return the status and the JSON body, of errors too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def serve_command(venv: Path, port: int) -> list[str]:
    """How the server is started."""
    return [str(venv / "bin" / "opta-lmx"), "serve", "--model", "starter", "--port", str(port)]


def environment(home: Path) -> dict[str, str]:
    """The caller's environment with a state folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMX_")}
    return {**kept, "LMX_HOME": str(home), "OPENBLAS_NUM_THREADS": "1"}


@contextlib.contextmanager
def server(venv: Path, home: Path) -> Generator[str, None, None]:
    """Run the server until the block ends; gives its address once it is ready."""
    port = free_port()
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            serve_command(venv, port), env=environment(home), stdout=output, stderr=output
        )
    try:
        wait_ready(f"http://127.0.0.1:{port}/readyz", process, log)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise ExtraError(f"the server ended with {process.returncode}: {tail(log)}")
    finally:
        process.kill()
        process.wait()


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll `/readyz` until it answers 200."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ExtraError(f"the server ended with {process.returncode}: {tail(log)}")
        with contextlib.suppress(OSError):
            if call(url)[0] == 200:
                return
        time.sleep(0.2)
    raise ExtraError(f"not ready after {READY_TIMEOUT_S:.0f} s: {tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def check_answer(address: str, model: str) -> str:
    """Ask one question; return the text."""
    status, answer = call(
        f"{address}/v1/chat/completions",
        {
            "model": model,
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_completion_tokens": 16,
            "temperature": 0,
        },
    )
    if status != 200:
        raise ExtraError(f"chat answered {status}: {answer}")
    text: str = answer["choices"][0]["message"]["content"]
    used: int = answer["usage"]["completion_tokens"]
    if not text.strip() or not 0 < used <= 16:
        raise ExtraError(f"chat answered nothing usable: {answer}")
    return text


def check_missing(address: str, backend: str) -> str:
    """Ask for a backend that is not installed; return the error's message."""
    status, answer = call(f"{address}/admin/models/load", {"model": "starter", "backend": backend})
    error: dict[str, Any] = answer.get("error", {})
    named = f"opta-lmx[{backend}]" in str(error.get("message"))
    if status < 400 or error.get("code") != "missing_extra" or not named:
        raise ExtraError(f"a missing backend answered {status}: {answer}")
    return str(error["message"])


def check_base(venv: Path, home: Path) -> str:
    """Without any extra, `serve` must refuse and name one; return its last line."""
    done = subprocess.run(
        serve_command(venv, free_port()),
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=READY_TIMEOUT_S,
        check=False,
    )
    output = done.stdout + done.stderr
    if done.returncode == 0 or "opta-lmx[" not in output or "Traceback" in output:
        raise ExtraError(f"serve without an engine ended with {done.returncode}: {output[-2000:]}")
    return output.strip().splitlines()[-1]


def run(extra: str) -> None:
    """Install and check one extra. Raises ExtraError."""
    if extra == "cuda" and shutil.which("nvidia-smi") is None:
        say(extra, "not run: there is no nvidia-smi on this machine")
        return
    started = time.monotonic()
    version = "{}.{}".format(*sys.version_info[:2])
    venv = ROOT / ".venvs" / f"{extra}-py{version}"
    say(extra, f"installing into {venv.relative_to(ROOT)}")
    install(extra, venv)
    say(extra, f"installed after {time.monotonic() - started:.0f} s; starting the server")
    with tempfile.TemporaryDirectory(prefix="lmx-") as scratch:
        if extra == "base":
            say(extra, f"refused as it should: {check_base(venv, Path(scratch))}")
        else:
            with server(venv, Path(scratch)) as address:
                for model in MODELS.get(extra, ("starter",)):
                    say(extra, f"{model} answered: {check_answer(address, model)!r}")
                if extra in MISSING:
                    say(extra, f"refused: {check_missing(address, MISSING[extra])}")
    say(extra, f"passed in {time.monotonic() - started:.0f} s")


def main() -> int:
    """Check the extras named on the command line, or all of them."""
    names = sys.argv[1:] or list(EXTRAS)
    unknown = sorted(set(names) - set(EXTRAS))
    if unknown:
        print(f"no such extra: {', '.join(unknown)}; there are {', '.join(EXTRAS)}")
        return 2
    failed: list[str] = []
    for name in names:
        try:
            run(name)
        except ExtraError as error:
            say(name, f"FAILED: {error}")
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
