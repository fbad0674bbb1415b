"""Let the real OpenClaw take one turn against a server of this checkout.

Installs OpenClaw from npm at fixed versions into `.openclaw/` (once), starts `opta-lmx serve`
with a long-window model on a free loopback port, writes OpenClaw's configuration with
`opta-lmx openclaw config --write`, runs one headless turn and checks that it was answered.
The model is a base model and babbles: what is checked is the conversation of the two programs.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NODE_VERSION = "26.10.0"
OPENCLAW_VERSION = "2026.9.6"
MODEL = "starter-long"
MAX_TOKENS = 48
PROMPT = "Say hello in one short sentence."

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".openclaw"
INSTALL_S = 900.0
READY_S = 1800.0  # A first start downloads the model.
REQUEST_S = 900  # A prompt of 8,000 tokens takes minutes on one core.
TURN_S = 1500
STOP_S = 30.0


class TurnError(Exception):
    """Something did not work; the message is for a person."""


@dataclass(frozen=True)
class Server:
    """A server that is ready: its address and its log."""

    url: str
    log: Path


def main() -> int:
    """Install, serve, take the turn, report; 0 if it was answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--install-only", action="store_true", help="install OpenClaw and stop")
    parser.add_argument("--prompt", default=PROMPT, help="what to say to the agent")
    options = parser.parse_args()
    try:
        binaries = install()
        if options.install_only:
            return 0
        with tempfile.TemporaryDirectory(
            prefix="opta-lmx-openclaw-", ignore_cleanup_errors=True
        ) as scratch:
            take_turn(Path(scratch), binaries, options.prompt)
    except TurnError as error:
        print(f"openclaw: {error}", file=sys.stderr)
        return 1
    return 0


def install() -> Path:
    """Install node and OpenClaw unless they are there; return the folder of their commands."""
    binaries = FOLDER / "node_modules" / ".bin"
    stamp = FOLDER / "installed.json"
    versions = {"node": NODE_VERSION, "openclaw": OPENCLAW_VERSION}
    if not stamp.exists() or json.loads(stamp.read_text()) != versions:
        begin = time.monotonic()
        _install_packages(binaries)
        stamp.write_text(json.dumps(versions))
        print(f"installed in {time.monotonic() - begin:.0f} s", flush=True)
    home = FOLDER / "home"
    home.mkdir(exist_ok=True)
    text = _checked(["openclaw", "--version"], _environment(binaries, home), 120).strip()
    if OPENCLAW_VERSION not in text:
        raise TurnError(f"OpenClaw {OPENCLAW_VERSION} is pinned, but {text!r} answers")
    print(text, flush=True)
    return binaries


def _install_packages(binaries: Path) -> None:
    """Node first: OpenClaw needs a newer one than many machines have."""
    if shutil.which("npm") is None:
        raise TurnError("npm is needed to install OpenClaw, and is not on the PATH")
    print(f"installing node {NODE_VERSION} and OpenClaw {OPENCLAW_VERSION} ...", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    # npm runs no package's install script but node's, which fetches the binary package.
    package = {"name": "opta-lmx-openclaw", "private": True, "allowScripts": {"node": True}}
    (FOLDER / "package.json").write_text(json.dumps(package))
    npm = ["npm", "install", "--no-audit", "--no-fund", "--save-exact"]
    node = f"node@{NODE_VERSION}"
    _checked([*npm, node], dict(os.environ), INSTALL_S, cwd=FOLDER)
    newer = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    _checked([*npm, node, f"openclaw@{OPENCLAW_VERSION}"], newer, INSTALL_S, cwd=FOLDER)


def take_turn(scratch: Path, binaries: Path, prompt: str) -> None:
    """Serve, connect, ask, check."""
    begin = time.monotonic()
    with serving(scratch) as server:
        print(f"server ready at {server.url} after {time.monotonic() - begin:.1f} s", flush=True)
        config = configure(scratch, server.url)
        begin = time.monotonic()
        answer = ask(scratch, binaries, config, prompt)
        spent = time.monotonic() - begin
        completions = answered_completions(server.url)
        report(answer, spent, completions)


@contextmanager
def serving(scratch: Path) -> Generator[Server]:
    """A server with scratch state but the user's own model store, ended on leaving."""
    from opta_lmx.config import lmx_home

    home = scratch / "lmx"
    home.mkdir()
    env = dict(os.environ)
    env.setdefault("LMX_MODELS__DIR", str(lmx_home(os.environ) / "models"))
    env |= {"LMX_HOME": str(home), "LMX_SERVER__API_KEYS": "[]"}
    log = scratch / "server.log"
    command = [sys.executable, "-m", "opta_lmx.cli.main", "serve"]
    command += ["--host", "127.0.0.1", "--port", "0", "--model", MODEL]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Server(_ready_url(process, log), log)
    except TurnError:
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        raise
    finally:
        _stop(process)


def _ready_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server has said where it listens and `/readyz` answers 200."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TurnError(f"the server ended with exit code {process.returncode}")
        found = re.search(r"listens on (http://\S+)", log.read_text(errors="replace"))
        if found and _status(f"{found[1]}/readyz") == 200:
            return found[1]
        time.sleep(0.2)
    raise TurnError(f"the server was not ready within {READY_S:.0f} s")


def configure(scratch: Path, url: str) -> Path:
    """Have `opta-lmx openclaw config --write` write the configuration."""
    path = scratch / "openclaw.json"
    command = [sys.executable, "-m", "opta_lmx.cli.main", "openclaw", "config", "--write"]
    command += ["--url", url, "--model", MODEL, "--max-tokens", str(MAX_TOKENS)]
    env = os.environ | {"OPENCLAW_CONFIG_PATH": str(path), "LMX_HOME": str(scratch / "lmx")}
    print(_checked(command, env, 60).strip(), flush=True)
    config: dict[str, Any] = json.loads(path.read_text())
    provider = config["models"]["providers"]["opta"]
    provider["timeoutSeconds"] = REQUEST_S
    path.write_text(json.dumps(config, indent=2))
    window = provider["models"][0]["contextWindow"]
    print(f"OpenClaw is told of a window of {window} tokens", flush=True)
    return path


def ask(scratch: Path, binaries: Path, config: Path, prompt: str) -> dict[str, Any]:
    """One headless turn; what OpenClaw says of it."""
    home, work = scratch / "home", scratch / "work"
    home.mkdir()
    work.mkdir()
    command = ["openclaw", "agent", "exec", "--config", str(config), "--cwd", str(work)]
    command += ["--model", f"opta/{MODEL}", "--timeout", str(TURN_S), "--json", prompt]
    env = _environment(binaries, home) | {"OPENCLAW_CONFIG_PATH": str(config)}
    print(f"asking {prompt!r} ...", flush=True)
    text = _checked(command, env, TURN_S + 60)
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise TurnError(f"OpenClaw's answer is no JSON: {text[:500]!r}") from error
    if answer.get("status") != "ok" or not answer.get("final"):
        raise TurnError(f"the turn was not answered: {text[:2000]}")
    return answer


def answered_completions(url: str) -> int:
    """How many chat completions the server counted as answered with 200."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        lines: list[str] = reply.read().decode().splitlines()
    counted = 0.0
    for line in lines:
        if "chat/completions" in line and '"200"' in line and "_total{" in line:
            counted += float(line.rsplit(" ", 1)[1])
    if counted < 1:
        raise TurnError("the server counted no chat completion with status 200")
    return int(counted)


def report(answer: dict[str, Any], spent_s: float, completions: int) -> None:
    """Print what happened."""
    usage = answer.get("usage", {})
    print(f"answer: {answer['final'][:300]!r}")
    print(f"turn: {spent_s:.1f} s, {completions} chat completion(s) answered with 200")
    print(
        f"usage: {usage.get('input', 0)} input tokens, {usage.get('cacheRead', 0)} of the prompt "
        f"cached, {usage.get('output', 0)} output tokens"
    )


def _environment(binaries: Path, home: Path) -> dict[str, str]:
    """An environment in which OpenClaw finds its node and nobody's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENCLAW_")}
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "HOME": str(home), "NO_COLOR": "1"}


def _checked(
    command: list[str], env: dict[str, str], limit_s: float, cwd: Path | None = None
) -> str:
    """Run a command to its end; its stdout. Raises TurnError if it fails or takes too long."""
    program = shutil.which(command[0], path=env["PATH"]) or command[0]
    try:
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=cwd,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TurnError(f"{command[0]} took more than {limit_s:.0f} s") from error
    if done.returncode != 0:
        tail = (done.stdout + done.stderr)[-3000:]
        raise TurnError(f"{' '.join(command[:3])} ended with exit code {done.returncode}:\n{tail}")
    return done.stdout


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
