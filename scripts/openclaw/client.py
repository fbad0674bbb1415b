"""OpenClaw as npm has it: installing a version, and running its command."""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.openclaw.failure import TurnError

NODE_VERSION = "26.10.0"
OPENCLAW_VERSION = "2026.9.6"
FOLDER = Path(__file__).resolve().parents[2] / ".openclaw"

_INSTALL_S = 900.0
_GRACE_S = 10.0


@dataclass(frozen=True)
class Finished:
    """How a command ended: its status (None: it took too long), what it wrote, its seconds."""

    status: int | None
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class OpenClaw:
    """An installed OpenClaw: its version and the folder of its commands."""

    version: str
    binaries: Path

    def run(self, arguments: list[str], home: Path, config: Path, limit_s: float) -> Finished:
        """Run `openclaw` with a home folder and a configuration of its own.

        Args:
            arguments: what follows the command's name.
            home: stands for the user's home; nobody's own settings are seen.
            config: OpenClaw's configuration file, there or to be written.
            limit_s: after so many seconds it is ended, with all it started.
        """
        env = environment(self.binaries, home) | {"OPENCLAW_CONFIG_PATH": str(config)}
        return run_bounded(["openclaw", *arguments], env, limit_s)


def newest_version() -> str:
    """The version npm calls the latest one."""
    done = run_bounded([npm(), "view", "openclaw", "version"], dict(os.environ), 120)
    if done.status != 0 or not done.out.strip():
        raise TurnError(f"npm does not say which OpenClaw is the newest:\n{done.err[-2000:]}")
    return done.out.strip()


def installed(version: str) -> OpenClaw:
    """Install node and that OpenClaw unless they are there."""
    folder = FOLDER / version
    binaries = folder / "node_modules" / ".bin"
    stamp = folder / "installed.json"
    versions = {"node": NODE_VERSION, "openclaw": version}
    if not stamp.exists() or json.loads(stamp.read_text()) != versions:
        begin = time.monotonic()
        _install(folder, binaries, version)
        stamp.write_text(json.dumps(versions))
        print(f"installed in {time.monotonic() - begin:.0f} s", flush=True)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    openclaw = OpenClaw(version, binaries)
    said = openclaw.run(["--version"], home, home / "openclaw.json", 120)
    if version not in said.out:
        raise TurnError(f"OpenClaw {version} is installed, but answers {said.out + said.err!r}")
    print(said.out.strip(), flush=True)
    return openclaw


def npm() -> str:
    """The npm command."""
    found = shutil.which("npm")
    if found is None:
        raise TurnError("npm is needed to install OpenClaw, and is not on the PATH")
    return found


def environment(binaries: Path, home: Path) -> dict[str, str]:
    """An environment in which OpenClaw finds its node and nobody's own settings."""
    own = ("OPENCLAW_", "LM_API_", "OPENAI_", "ANTHROPIC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "HOME": str(home), "NO_COLOR": "1"}


def run_bounded(
    command: list[str], env: dict[str, str], limit_s: float, cwd: Path | None = None
) -> Finished:
    """Run a command to its end, or end it and its children after `limit_s` seconds."""
    program = shutil.which(command[0], path=env["PATH"]) or command[0]
    begin = time.monotonic()
    with subprocess.Popen(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            out, err = _end(process)
            status = None
    return Finished(status, out, err, time.monotonic() - begin)


def _end(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """End the process group: first asked, then forced."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_GRACE_S)
    return "", ""


def _install(folder: Path, binaries: Path, version: str) -> None:
    """Node first: OpenClaw needs a newer one than many machines have."""
    print(f"installing node {NODE_VERSION} and OpenClaw {version} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # npm runs no package's install script but node's, which fetches the binary package.
    package = {"name": "opta-lmx-openclaw", "private": True, "allowScripts": {"node": True}}
    (folder / "package.json").write_text(json.dumps(package))
    command = [npm(), "install", "--no-audit", "--no-fund", "--save-exact"]
    node = f"node@{NODE_VERSION}"
    newer = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    _must([*command, node], dict(os.environ), folder)
    _must([*command, node, f"openclaw@{version}"], newer, folder)


def _must(command: list[str], env: dict[str, str], cwd: Path) -> None:
    done = run_bounded(command, env, _INSTALL_S, cwd)
    if done.status != 0:
        tail = (done.out + done.err)[-3000:]
        raise TurnError(f"{' '.join(command[:2])} ended with {done.status}:\n{tail}")
