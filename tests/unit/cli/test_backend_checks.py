"""Whether engines can be imported, tried in a child process."""

import importlib.util
import sys
from collections.abc import Mapping

import pytest

from opta_lmx.backends import registry
from opta_lmx.cli import checks


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    found = {"mlx": "print('Device(gpu, 0)')", "gguf": "pass"}
    monkeypatch.setattr(checks, "_PROBES", found)
    monkeypatch.setattr(registry, "missing_modules", lambda _: ())
    return found


def test_engines_that_import_are_fine(probes: Mapping[str, str]) -> None:
    states = {check.subject: check.state for check in checks.backends()}
    assert states == {"backend mlx": "ok", "backend gguf": "ok"}


def test_an_engine_that_cannot_be_imported_says_why(
    probes: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    probes["gguf"] = "raise ImportError('libX.so is missing')"
    by_subject = {check.subject: check for check in checks.backends()}
    assert by_subject["backend gguf"].state == "broken"
    assert "libX.so is missing" in by_subject["backend gguf"].detail
    assert "pip install --force-reinstall" in by_subject["backend gguf"].detail
    assert "backends" not in by_subject


def test_an_engine_that_crashes_does_not_take_doctor_along(probes: dict[str, str]) -> None:
    probes["mlx"] = probes["gguf"] = "import os; os.abort()"
    states = [(check.subject, check.state) for check in checks.backends()]
    assert states == [
        ("backend mlx", "broken"),
        ("backend gguf", "broken"),
        ("backends", "broken"),
    ]


def test_no_engine_at_all_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "missing_modules", lambda name: (name,))
    found = list(checks.backends())
    assert all("pip install 'opta-lmx[gguf]'" in check.detail for check in found[1:])
    assert [check.state for check in found] == ["info", "info", "broken"]


@pytest.mark.engine
@pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS is added on Linux only")
@pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="needs mlx")
def test_the_real_mlx_is_looked_at_as_a_worker_sees_it() -> None:
    mlx = next(iter(checks.backends()))
    assert mlx.state == "ok", mlx.detail
    assert "with OpenBLAS" in mlx.detail or "gpu" in mlx.detail
