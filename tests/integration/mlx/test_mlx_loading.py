"""What can be loaded, what it says of itself, and how everything else is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from opta_lmx.backends.frames import Announce
from opta_lmx.backends.protocol import LoadError
from opta_lmx.core.types import Message, Prompt, SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import Driver, prompt
from tests.support.tiny import CONTEXT, tiny_llama, tiny_sliding

PARAMETERS = 4_983_040


def test_ready_tells_what_was_loaded(child: Child) -> None:
    driver = Driver(child, tiny_llama(), slots=3)
    ready = driver.ready
    assert (ready.context, ready.slots) == (CONTEXT, 3)
    # 4 layers x keys and values x 2 heads x 64 x 4 bytes, for every token of every slot.
    assert ready.kv is not None
    assert ready.kv.layers == ((4 * 2 * 2 * 64 * 4, 0),)
    assert ready.kv_bytes == 3 * ready.kv.at(CONTEXT) + ready.kv.peak
    stored = load_file(tiny_llama() / "model.safetensors")
    assert ready.weights_bytes == sum(weight.nbytes for weight in stored.values())
    assert ready.template_source == "model"
    assert ready.sampling == SamplingParams()
    assert ready.engine.startswith("mlx ")
    announced = [f.op for f in driver.load_frames if isinstance(f, Announce)]
    assert announced == ["import", "load", "warm-up"]


def test_sliding_layers_are_counted_by_their_window(child: Child) -> None:
    driver = Driver(child, tiny_sliding(), slots=1)
    per_token = 2 * 2 * 64 * 4
    assert driver.ready.kv is not None
    assert sorted(driver.ready.kv.layers) == [(2 * per_token, 0), (2 * per_token, 64)]


def test_a_request_that_fills_the_window_can_run_in_what_it_takes(child: Child) -> None:
    token = 4 * 2 * 2 * 64 * 4
    for tokens, slots in ((CONTEXT, 1), (CONTEXT + 255, 4), (2 * CONTEXT, 4)):
        options = {"kv_bytes": tokens * token}
        ready = Driver(child, tiny_llama(), slots=slots, options=options).ready
        assert ready.kv is not None
        assert ready.kv_bytes == max(tokens, CONTEXT + 255) * token
        assert ready.kv_bytes - ready.kv.peak >= ready.kv.at(CONTEXT)


def test_texts_render_the_models_template(driver: Driver) -> None:
    ids = driver.prepare(Prompt(messages=(Message("user", "hi"),)))
    assert ids == driver.prepare(
        Prompt(text="<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    )


def test_a_configured_template_replaces_the_models(child: Child) -> None:
    driver = Driver(child, tiny_llama(), slots=1, template="{{ messages[0].content }}")
    assert driver.ready.template_source == "config"
    prompt_ids = driver.prepare(Prompt(messages=(Message("user", "plain"),)))
    assert prompt_ids == driver.prepare(Prompt(text="plain"))


def test_half_precision_can_be_asked_for(child: Child) -> None:
    driver = Driver(child, tiny_llama(), slots=1, options={"dtype": "bfloat16", "kv_bytes": 1000})
    assert driver.ready.weights_bytes < 11_000_000
    assert driver.ready.kv_bytes == 1000
    driver.submit(1, prompt(5), 3, top=1)
    driver.run()
    assert len(driver.ids(1)) == 3


Spoil = Callable[[Path], object]


def _config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def _not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], np.nan)
    save_file(weights, folder / "model.safetensors")


def _missing_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 9_000_000), "incomplete download"),
        (lambda f: os.truncate(f / "model.safetensors", 50), "incomplete download"),
        (lambda f: os.truncate(f / "model.safetensors", 0), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 999), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").unlink(), "No safetensors"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[1]"), "JSON object"),
        (lambda f: (f / "tokenizer.json").unlink(), "neither tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be loaded"),
        (lambda f: (f / "chat_template.jinja").write_text("{% if %}"), "not valid Jinja"),
        (_config(model_type="no_such_model"), "not supported"),
        (_config(hidden_size=0), "cannot be loaded"),
        (_config(num_hidden_layers="many"), "cannot be loaded"),
        (_config(intermediate_size=1000), "cannot be loaded"),
        (_config(auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (_config(model_file="model.py"), "model_file"),
        (_not_finite, "no finite probabilities"),
        (_missing_tensor, "up_proj"),
    ],
)
def test_spoilt_folders_are_refused_with_a_reason(
    child: Child, tmp_path: Path, spoil: Spoil, words: str
) -> None:
    folder = shutil.copytree(tiny_llama(), tmp_path / "model")
    spoil(folder)
    with pytest.raises(LoadError) as caught:
        Driver(child, folder)
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.code == ("canary_failed" if spoil is _not_finite else "load_failed")


@pytest.mark.parametrize("options", [{"dtype": "int3"}, {"dtipe": "auto"}, {"kv_bytes": "lots"}])
def test_unknown_options_are_refused(child: Child, options: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match="option"):
        Driver(child, tiny_llama(), options=options)


def test_a_missing_folder_is_refused(child: Child, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no config\.json"):
        Driver(child, tmp_path / "nowhere")
