"""The environment of MLX workers: OpenBLAS where its pieces are, a reason where they are not."""

import os
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

from opta_lmx.backends.mlx import environment
from opta_lmx.backends.mlx.environment import OpenBlas, find_openblas, worker_environment

HAS_OPENBLAS = isinstance(find_openblas(), OpenBlas)
needs_openblas = pytest.mark.skipif(not HAS_OPENBLAS, reason="OpenBLAS is not installed here")


def test_workers_never_phone_home(tmp_path: Path) -> None:
    variables = worker_environment(tmp_path).variables
    assert variables["HF_HUB_OFFLINE"] == variables["TRANSFORMERS_OFFLINE"] == "1"
    assert variables["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert variables["TOKENIZERS_PARALLELISM"] == "false"


def test_compiled_kernels_are_kept_in_private(tmp_path: Path) -> None:
    variables = worker_environment(tmp_path / "lib").variables
    kernels = Path(variables["TMPDIR"])
    assert kernels.is_relative_to(tmp_path)
    assert kernels.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "lib").stat().st_mode & 0o777 == 0o700


@needs_openblas
def test_links_are_made_once_and_repaired(tmp_path: Path) -> None:
    worker_environment(tmp_path)
    link = tmp_path / "libgfortran.so.5"
    first = link.lstat().st_ino
    worker_environment(tmp_path)
    assert link.lstat().st_ino == first
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    worker_environment(tmp_path)
    assert link.exists()


@needs_openblas
def test_many_may_prepare_the_folder_at_once(tmp_path: Path) -> None:
    start, failures = threading.Barrier(8), []

    def prepare() -> None:
        start.wait()
        try:
            worker_environment(tmp_path / "lib")
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    names = sorted(entry.name for entry in (tmp_path / "lib").iterdir())
    assert names == ["kernels", "libgfortran.so.5", "libopenblas.so.0"]


@needs_openblas
def test_inherited_libraries_stay_behind_ours(tmp_path: Path) -> None:
    base = {"LD_PRELOAD": "mine.so", "LD_LIBRARY_PATH": "/opt/lib", "OPENBLAS_NUM_THREADS": "3"}
    variables = worker_environment(tmp_path, base).variables
    assert variables["LD_PRELOAD"] == "libopenblas.so.0:mine.so"
    assert variables["LD_LIBRARY_PATH"].startswith(f"{tmp_path}:")
    assert variables["LD_LIBRARY_PATH"].endswith(":/opt/lib")
    assert variables["OPENBLAS_NUM_THREADS"] == "3"


@needs_openblas
def test_a_worker_has_openblas_loaded_before_mlx(tmp_path: Path) -> None:
    script = (
        "import mlx.core as mx; mx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)));"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'blas' in line})"
    )
    found = worker_environment(tmp_path / "a folder")
    assert found.reason is None
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | found.variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "libopenblas" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("missing", ["cmeel-openblas", "mlx-cpu"])
def test_missing_pieces_are_a_reason_not_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    real = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment.metadata, "distribution", distribution)
    result = worker_environment(tmp_path)
    assert result.reason is not None
    assert "mlx" in result.reason.lower()
    assert "LD_PRELOAD" not in result.variables


def test_other_systems_keep_their_own_blas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    result = worker_environment(tmp_path)
    assert result.reason is not None
    assert "LD_PRELOAD" not in result.variables


@needs_openblas
def test_a_folder_that_no_library_path_can_name_is_a_reason(tmp_path: Path) -> None:
    result = worker_environment(tmp_path / "a:b")
    assert result.reason is not None
    assert "LD_PRELOAD" not in result.variables


def test_the_front_may_import_it_without_mlx() -> None:
    script = (
        "import sys, opta_lmx.backends.mlx.environment as e;"
        "print(any(name == 'mlx' or name.startswith(('mlx.', 'mlx_lm')) for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
