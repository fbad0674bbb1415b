"""The front process loads no inference library: it must start fast and survive their faults."""

import json
import subprocess
import sys

import pytest

ENGINES = {
    "gguf",
    "jinja2",
    "mlx",
    "mlx_lm",
    "numpy",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
    "xllamacpp",
}
PROBE = (
    "import importlib, json, sys; importlib.import_module(sys.argv[1]); "
    "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
)


@pytest.mark.parametrize("module", ["opta_lmx.app", "opta_lmx.cli.main"])
def test_the_front_imports_no_engine(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PROBE, module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) & ENGINES == set()
