"""vllm-mlx as a peer, in an environment of its own: it needs an older mlx-lm than this server.

The environment is made on the first use, below `.venvs/`, from the package index that pip is set
up for, and made anew when the versions below change. Two things differ from a plain
`pip install vllm-mlx`: `mlx[cpu]` is added on Linux, without which its mlx has no library there,
and what only pictures and its web page need (torchvision, OpenCV, gradio) is left out.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import ROOT, Command, StartError, mlx_environment

HOME = ROOT / ".venvs" / "peer-vllm-mlx"
BARE = ("vllm-mlx==0.6.0", "mlx-vlm==0.7.10", "mlx-embeddings==0.1.0")
"""Installed without what they ask for."""
NEEDED = (
    "mlx[cpu]==0.32.4" if sys.platform == "linux" else "mlx==0.32.4",
    "mlx-lm==0.31.3",
    "transformers==5.23.0",
    *("fastapi", "uvicorn", "prometheus-client", "psutil", "jsonschema", "pyyaml", "requests"),
    *("numpy", "pillow", "tqdm", "tabulate", "mcp", "pytz", "llguidance", "lm-format-enforcer"),
)
_INSTALL_S = 900.0
_MODEL = "peer"


def fingerprint() -> str:
    """Hash of all that the environment is made from."""
    made_from = [BARE, NEEDED, sys.version_info[:2]]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def environment(home: Path = HOME) -> Path:
    """The environment, made if it is not there or made from something else.

    Raises:
        StartError: it cannot be made; the message ends with pip's last words.
    """
    stamp = home / "made-from"
    if stamp.is_file() and stamp.read_text() == fingerprint():
        return home
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input"]
    _run([*pip, "--no-deps", *BARE])
    _run([*pip, *NEEDED])
    stamp.write_text(fingerprint())
    return home


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"the peer's environment cannot be made: {error}") from None
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip()[-800:]
        raise StartError(f"the peer's environment cannot be made:\n{words}")


def vllm_mlx(folder: Path, scratch: Path) -> Command:
    """vllm-mlx on an MLX folder with its batching of running requests, all else by default.

    Raises:
        StartError: its environment cannot be made.
    """
    program = environment() / "bin" / "vllm-mlx"
    arguments = [str(program), "serve", str(folder), "--served-model-name", _MODEL]
    arguments += ["--continuous-batching", "--host", "127.0.0.1", "--port", "{port}", "--offline"]
    return Command(
        name="vllm-mlx",
        model=_MODEL,
        arguments=arguments,
        ready_path="/v1/models",
        environment=mlx_environment(scratch),
    )
