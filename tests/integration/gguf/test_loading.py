"""Loading: what a model says of itself, its texts, and every way it can fail."""

import json
import os
import shutil
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from opta_lmx.core.types import Message, Prompt, Tool
from tests.support.gguf_child import Child
from tests.support.starters import starter_path
from tests.support.tiny import tiny_gguf, tiny_llama, write_gguf, write_json

pytestmark = pytest.mark.engine


def test_starter_describes_itself() -> None:
    with Child(starter_path("starter"), slots=1) as child:
        ready = child.ready()
        assert (ready.context, ready.slots) == (8192, 1)
        assert ready.weights_bytes > 90_000_000
        assert ready.kv_bytes == 8192 * 30 * 2 * 192 * 2
        assert ready.template_source == "model"
        assert ready.engine.startswith("llama.cpp (xllamacpp ")


def test_model_without_template_gets_the_default_of_its_vocabulary(long: Child) -> None:
    assert long.ready().template_source == "default"
    prompt = Prompt(messages=(Message("system", "Rules"), Message("user", "Hi")))
    ids = long.prepare(prompt).ids
    assert ids == long.ids("<start_of_turn>user\nRules\n\nHi<end_of_turn>\n<start_of_turn>model\n")
    assert ids[0] == 2
    assert 2 not in ids[1:], "one beginning-of-text token only"


def test_configured_template_wins() -> None:
    source = "{% for m in messages %}{{ m.content }}!{% endfor %}{{ tools }}"
    with Child(tiny_gguf(), context=256, slots=1, template=source) as child:
        ready = child.ready()
        assert ready.template_source == "config"
        asked = child.prepare(Prompt(messages=(Message("user", "def"),)))
        assert asked.ids == child.ids("def!None")


def test_marks_of_thinking_are_found_in_the_vocabulary(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    shutil.copytree(tiny_llama(), folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    last = sorted(vocab, key=vocab.__getitem__)[-2:]
    for mark, text in zip(("[THINK]", "[/THINK]"), last, strict=True):
        vocab[mark] = vocab.pop(text)
    write_json(folder / "tokenizer.json", tokenizer)
    write_gguf(tmp_path / "m.gguf", folder=folder)
    with Child(tmp_path / "m.gguf", context=256, slots=1) as child:
        assert child.ready().speech.reasoning == "mistral"


def test_chat_is_rendered_with_special_tokens(tiny: Child) -> None:
    ids = tiny.prepare(Prompt(messages=(Message("user", "os"),))).ids
    assert ids == tiny.ids("<|im_start|>user\nos<|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(1) == 2


def test_tools_are_rendered_even_where_the_template_knows_none(tiny: Child) -> None:
    tool = Tool(name="get_weather", description="Weather of a city")
    plain = Prompt(messages=(Message("user", "os"),))
    tooled = Prompt(messages=plain.messages, tools=(tool,))
    assert len(tiny.prepare(tooled).ids) > len(tiny.prepare(plain).ids) + 20


def test_bad_prompts_are_told(tiny: Child) -> None:
    assert "empty" in (tiny.prepare(Prompt(text="")).error or "")
    assert "vocabulary" in (tiny.prepare(Prompt(ids=(1, 10**9))).error or "")
    reserved = Prompt(messages=(Message("user", "x"),), template_kwargs={"messages": 1})
    assert "reserved" in (tiny.prepare(reserved).error or "")


def test_socket_is_private(tiny: Child) -> None:
    folder = Path(tiny.runtime_dir) / "llama"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (socket,) = folder.glob("*.sock")
    assert socket.stem == str(tiny.process.pid)


def test_stale_sockets_are_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    live = folder / f"{os.getpid()}.sock"
    (folder / "4194304999.sock").touch()
    (folder / "nonsense.sock").touch()
    (folder / "4194304999.slots").mkdir()
    live.touch()
    with Child(tiny_gguf(), context=256, slots=1, runtime_dir=str(tmp_path)) as child:
        child.ready()
        names = {path.name for path in folder.iterdir()}
        assert names == {live.name, f"{child.process.pid}.sock", f"{child.process.pid}.slots"}


def test_worker_ends_with_its_socket() -> None:
    child = Child(tiny_gguf(), context=256, slots=1)
    with child:
        child.ready()
        child.submit(range(100, 120), max_tokens=200)
    assert child.process.returncode == 0


def test_killed_worker_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with Child(tiny_gguf(), context=256, slots=1, runtime_dir=str(tmp_path)) as child:
            child.ready()
            child.process.send_signal(signal.SIGKILL)
            assert child.process.wait(10) == -signal.SIGKILL


def test_weights_that_give_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama(), tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], np.nan)
    save_file(weights, folder / "model.safetensors")
    write_gguf(tmp_path / "m.gguf", folder=folder)
    with Child(tmp_path / "m.gguf", context=256, slots=1) as child:
        fault = child.fault()
        assert "no finite probabilities" in fault.message
        assert fault.code == "canary_failed"


def fault_of(path: Path, **load: object) -> str:
    with Child(path, **load) as child:
        fault = child.fault()
        assert fault.code == "load_failed"
        assert fault.id is None
        assert child.process.wait(10) != 0
        return fault.message


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in fault_of(tmp_path / "none.gguf")


def test_truncated_file(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    whole = tiny_gguf().read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in fault_of(cut)


def test_garbage_file(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(bytes(range(256)) * 100)
    assert "GGUF" in fault_of(garbage)


def test_llama_cpp_says_why_it_refuses(tmp_path: Path) -> None:
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(tiny_gguf().read_bytes().replace(b"llama", b"lxama"))
    assert "unknown model architecture" in fault_of(strange)


def test_unusable_template() -> None:
    assert "not valid Jinja" in fault_of(tiny_gguf(), template="{% if")


@pytest.mark.parametrize("options", [{"nosuch": 1}, {"kv_bytes": "much"}])
def test_unusable_options(options: dict[str, object]) -> None:
    assert "options" in fault_of(tiny_gguf(), options=options)


def test_overlong_socket_path(tmp_path: Path) -> None:
    assert "path" in fault_of(tiny_gguf(), runtime_dir=str(tmp_path / ("x" * 120)))
