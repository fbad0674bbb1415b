"""Resolve the dependencies into `requirements-ci-lock.txt`: hashed, for every platform at once.

The index, certificates and proxies come from pip's configuration; none of them is written
into the lock. Pass `--upgrade` to move to newer versions; without it only what pyproject.toml
no longer allows is changed.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements-ci-lock.txt"
FLAGS = [
    "--extra=all",
    "--extra=dev",
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
]


def pip_setting(name: str) -> str | None:
    """Return one of pip's global settings, as its configuration and environment have it."""
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def environment() -> dict[str, str]:
    """Return the environment that makes uv ask the index pip would ask."""
    values = dict(os.environ)
    index = os.environ.get("PIP_INDEX_URL") or pip_setting("index-url")
    if index and "UV_DEFAULT_INDEX" not in values:
        values["UV_DEFAULT_INDEX"] = index
    return values


def main() -> int:
    """Run the resolver."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", "pyproject.toml", *FLAGS, "-o", LOCK, *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
