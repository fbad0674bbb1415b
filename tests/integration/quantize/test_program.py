"""The program that quantises, run by hand: what it makes in each mode, and what it refuses."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.models.info import read_info
from tests.support.tiny import tiny_gguf, tiny_llama

PROGRAM = [sys.executable, "-m", "opta_lmx.backends.quantize"]


def run(source: Path, out: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and lines of the program."""
    done = subprocess.run(
        [*PROGRAM, "--source", str(source), "--out", str(out), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def phases(lines: list[dict[str, Any]]) -> list[str]:
    """The phases in their order; within each, bytes only grow and end at the total."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines[:-1]:
        found.setdefault(line["progress"]["phase"], []).append(line["progress"])
    for steps in found.values():
        done = [step["done"] for step in steps]
        assert done == sorted(done)
        assert done[-1] == steps[-1]["total"]
    return list(found)


def test_a_folder_is_made_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, lines = run(tiny_llama(), out, "--bits", "4")
    assert status == 0
    assert phases(lines) == ["loading", "quantising", "verifying"]
    layers = {line["progress"]["layer"] for line in lines[:-1]}
    assert "model.layers.3.mlp.down_proj" in layers
    done = lines[-1]["done"]
    for file in done["files"]:
        data = (out / file["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
    assert {path.name for path in out.iterdir()} == {file["name"] for file in done["files"]}
    assert done["packed"]["quantised"] == 4 * 7 + 2
    assert done["packed"]["kept"] == 0
    assert 5.0 <= done["packed"]["bits_per_weight"] < 5.1  # scales of a float32 model take four
    info = read_info(out)
    assert (info.quantisation, info.parameters) == ("4bit", read_info(tiny_llama()).parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_gguf_file_is_converted_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, lines = run(tiny_gguf(), out, "--mode", "mxfp8")
    assert status == 0
    assert phases(lines) == ["converting", "loading", "quantising", "verifying"]
    assert read_info(out).quantisation == "mxfp8-8bit"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        (["--bits", "7"], "invalid_quantisation", "bits"),
        (["--mode", "nvfp4", "--group-size", "32"], "invalid_quantisation", "group_size"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    tmp_path: Path, options: list[str], code: str, param: str
) -> None:
    status, (line,) = run(tiny_llama(), tmp_path / "out", *options)
    assert (status, line["error"]["code"], line["error"]["param"]) == (2, code, param)
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    command = [*PROGRAM, "--leash", "--source", str(tiny_llama()), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=reader, stdout=subprocess.DEVNULL) as child:
        os.close(reader)
        os.close(writer)
        assert child.wait(20) == 1
    assert not (tmp_path / "out").exists()
