"""Puts a Chromium on this machine for the tests in tests/e2e, and a Caddy: `make browser`.

With apt, as root on Debian and its like; elsewhere it says what to do. The tests that need one that
is not there are skipped.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ADVICE = "Install Chromium or Chrome yourself, or name its program in LMX_CHROMIUM."


def found() -> str | None:
    """The browser there is: the one that is named, or the first on PATH."""
    return os.environ.get("LMX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def install(package: str) -> bool:
    """Install a package of Debian's; False where that cannot be done here, or fails."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return False
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
    ):
        if subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL, check=False).returncode:
            return False
    return True


def main() -> int:
    """Find or install both; 0 also where there is none, for nothing else needs them."""
    if found() is None:
        install("chromium")
    if shutil.which("caddy") is None:
        install("caddy")
    path, caddy = found(), shutil.which("caddy")
    print(f"Chromium: {path}" if path else f"There is no Chromium. {ADVICE}", file=sys.stderr)
    print(f"Caddy: {caddy}" if caddy else "There is no Caddy on PATH.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
