"""The environment an MLX worker is started in; imports no MLX, so the front may call it.

The Linux wheel of MLX brings a reference BLAS that is 3 to 20 times slower than OpenBLAS in
float32. `cmeel-openblas` brings OpenBLAS as a wheel; it wins when the dynamic loader sees it
before MLX's own. Its need for `libgfortran.so.5` is met by the copy in MLX's wheel.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import msgspec

_FORTRAN = "libgfortran.so.5"
_OPENBLAS = "libopenblas.so.0"

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class OpenBlas(msgspec.Struct, frozen=True):
    """Where the pieces lie: OpenBLAS itself, MLX's bundled libraries, libgfortran among them."""

    library: Path
    bundled: Path
    fortran: Path


class WorkerEnvironment(msgspec.Struct, frozen=True):
    """Variables to add to a worker's environment.

    `reason` says in one sentence why OpenBLAS is not among them; None when it is.
    """

    variables: dict[str, str]
    reason: str | None


def find_openblas() -> OpenBlas | str:
    """Return the installed pieces, or a sentence saying why MLX runs without them."""
    if sys.platform != "linux":
        return "MLX uses the platform's own BLAS here."
    bundled = _installed("mlx-cpu", "mlx_cpu.libs")
    if bundled is None:
        return "The CPU build of MLX (mlx-cpu) is not installed."
    library = _installed("cmeel-openblas", f"cmeel.prefix/lib/{_OPENBLAS}")
    if library is None:
        return "cmeel-openblas is not installed, so MLX uses its slow reference BLAS."
    fortran = sorted(bundled.glob("libgfortran-*.so.5*"))
    if not fortran:
        return "MLX's wheel brings no libgfortran here, so OpenBLAS cannot be loaded."
    return OpenBlas(library, bundled, fortran[0])


def worker_environment(folder: Path, base: Mapping[str, str] | None = None) -> WorkerEnvironment:
    """Return what to add to the environment of an MLX worker process.

    Args:
        folder: private folder for links to libraries and for compiled kernels, made when
            missing; several processes may share it and call this at once.
        base: the environment the worker would inherit (default: this process's); its library
            paths and preloads are kept behind ours.

    Raises:
        OSError: `folder` cannot be written.
    """
    kernels = folder.absolute() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kernels.mkdir(mode=0o700, exist_ok=True)
    # On a CPU MLX compiles kernels and keeps them here; the usual place is open to everyone.
    variables = {**_QUIET, "TMPDIR": str(kernels)}
    found = find_openblas()
    if isinstance(found, str):
        return WorkerEnvironment(variables, found)
    paths = (str(folder.absolute()), str(found.bundled))
    if any(separator in path for path in paths for separator in ":;"):
        return WorkerEnvironment(variables, "A folder name with ':' or ';' bars OpenBLAS.")
    inherited = os.environ if base is None else base
    _link(folder / _FORTRAN, found.fortran)
    _link(folder / _OPENBLAS, found.library)
    variables |= {
        "LD_LIBRARY_PATH": _joined(*paths, inherited.get("LD_LIBRARY_PATH")),
        # By bare name, found through the path above: a preloaded path may not hold spaces.
        "LD_PRELOAD": _joined(_OPENBLAS, inherited.get("LD_PRELOAD")),
        # One thread is faster than two here: MLX's own pool and OpenBLAS's fight for cores.
        "OPENBLAS_NUM_THREADS": inherited.get("OPENBLAS_NUM_THREADS", "1"),
    }
    return WorkerEnvironment(variables, None)


def _installed(distribution: str, member: str) -> Path | None:
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(member)))
    except metadata.PackageNotFoundError:
        return None
    return path.resolve() if path.exists() else None


def _joined(*parts: str | None) -> str:
    return ":".join(part for part in parts if part)


def _link(link: Path, target: Path) -> None:
    """Make `link` point at `target`, in one atomic step."""
    if link.is_symlink() and link.readlink() == target:
        return
    with tempfile.TemporaryDirectory(dir=link.parent) as draft:
        fresh = Path(draft) / link.name
        fresh.symlink_to(target)
        fresh.replace(link)
