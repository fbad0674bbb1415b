"""Make `.venv` from the lock: hash-checked, without build isolation, and nothing if up to date.

Uses the standard library and pip only, so that the user's own pip configuration (index,
certificates, proxies) is honoured. Safe to run several times at once.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-ci-lock.txt"
INPUTS = (LOCK, ROOT / "pyproject.toml", Path(__file__).resolve())
OLDEST, NEWEST = (3, 11), (3, 13)
_PROBE = "import sys; print('%d.%d' % sys.version_info[:2])"


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f"[setup] {text}", flush=True)


def python_version(python: str) -> tuple[int, int] | None:
    """Return (major, minor) of an interpreter, or None where it does not run."""
    try:
        done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.fullmatch(r"(\d+)\.(\d+)", done.stdout.strip())
    return (int(match[1]), int(match[2])) if match else None


def find_python() -> str:
    """Return an interpreter of a supported version: the running one, else one on PATH.

    Raises:
        SetupError: there is none.
    """
    names = [f"python{major}.{minor}" for major, minor in ((3, 13), (3, 12), (3, 11))]
    for candidate in [sys.executable, *filter(None, map(shutil.which, names))]:
        version = python_version(candidate)
        if version is not None and OLDEST <= version <= NEWEST:
            return candidate
    here = ".".join(map(str, sys.version_info[:2]))
    raise SetupError(
        f"Python 3.11, 3.12 or 3.13 is needed; this is {here} and no other was found. "
        "Name one with `make PYTHON=/path/to/python3.12 …`."
    )


def fingerprint(version: tuple[int, int]) -> str:
    """Return the hash of everything the environment depends on."""
    digest = hashlib.sha256(f"{version} {sys.platform}".encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def create_venv(venv: Path, python: str, version: tuple[int, int]) -> None:
    """Make the virtual environment, replacing one that is broken or of another Python."""
    inner = venv / "bin" / "python"
    if python_version(str(inner)) == version and (venv / "bin" / "pip").exists():
        return
    say(f"creating {venv.name} with Python {version[0]}.{version[1]}")
    shutil.rmtree(venv, ignore_errors=True)
    done = subprocess.run(
        [python, "-m", "venv", str(venv)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"`{python} -m venv` failed (on Debian and Ubuntu install python3-venv):\n"
            + (done.stdout + done.stderr).strip()
        )


def locked_count() -> int:
    """Return how many packages the lock names (some are for other platforms)."""
    return len(re.findall(r"^[a-z0-9][a-z0-9._-]*==", LOCK.read_text(), flags=re.MULTILINE))


class Progress:
    """Turns pip's lines into a few: how many packages of `total` are fetched."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._fetched = 0

    def see(self, line: str) -> None:
        """Take one line of pip's output."""
        if line.startswith("Ignoring "):
            self._total -= 1
        elif line.startswith(("Collecting ", "Processing ")):
            self._fetched += 1
            if self._total and self._fetched % 20 == 0:
                say(f"  {self._fetched} of {self._total} packages fetched")
        elif line.startswith("Installing collected") and self._total:
            say(f"  unpacking {self._fetched} packages")


def run_pip(venv: Path, arguments: list[str], *, total: int = 0) -> None:
    """Run pip, its output going to `install.log` and a short account to the terminal.

    Raises:
        SetupError: pip failed; the message ends with the last lines it wrote.
    """
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    progress = Progress(total)
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line)
            progress.see(line)
    (venv / "install.log").write_text("".join(lines))
    if pip.returncode != 0:
        tail = "".join(lines[-15:])
        raise SetupError(f"pip failed; the last lines of {venv.name}/install.log:\n{tail}")


def install(venv: Path) -> None:
    """Install the locked packages, then this project in editable form."""
    total = locked_count()
    say(f"installing {total} packages at most, from {LOCK.name}")
    # --no-compile: byte code is made on first import, only for what is imported.
    flags = ["--require-hashes", "--no-deps", "--no-compile", "--progress-bar=off"]
    run_pip(venv, [*flags, "-r", str(LOCK)], total=total)
    run_pip(venv, ["--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def prepare(venv: Path) -> None:
    """Bring `venv` up to date with the lock; returns at once when it is."""
    python = find_python()
    version = python_version(python)
    assert version is not None
    wanted = fingerprint(version)
    stamp = venv / ".installed"
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "setup.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        started = time.monotonic()
        create_venv(venv, python, version)
        stamp.unlink(missing_ok=True)
        install(venv)
        stamp.write_text(wanted)
        say(f"ready after {time.monotonic() - started:.0f} s")


def main() -> int:
    """Prepare the environment named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    try:
        prepare(parser.parse_args().venv.resolve())
    except SetupError as error:
        print(f"[setup] {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
