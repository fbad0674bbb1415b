"""The starters as MLX folders: converted once and kept until the converter changes."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.starters import starter_path

ROOT = Path(__file__).parents[3]


def converted(name: str) -> Path:
    """Folder of `starter` or `starter-long` in float32. Safe from several processes at once."""
    folder = ROOT / ".cache" / "converted"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{_converter_digest()}"
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            for stale in folder.glob(f"{name}-{'[0-9a-f]' * 12}"):
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(dir=folder) as draft:
                run_converter(starter_path(name), Path(draft) / "out")
                (Path(draft) / "out").rename(target)
    return target


def run_converter(gguf: Path, out: Path, *options: str) -> str:
    """Run the converter program, which must succeed; return what it printed."""
    command = [sys.executable, "-m", "opta_lmx.backends.convert", "--gguf", str(gguf)]
    done = subprocess.run(
        [*command, "--out", str(out), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _converter_digest() -> str:
    digest = hashlib.sha256()
    for file in sorted((ROOT / "src/opta_lmx/backends/convert").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
