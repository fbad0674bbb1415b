"""Rows of several adapters run together, each with the text it would have by mlx-lm alone."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from opta_lmx.backends.frames import Keep, Load, Log, Reuse
from opta_lmx.backends.protocol import LoadError
from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import Driver, prompt
from tests.support.adapters import adapter_config, adapter_tensors, tiny_adapter, write_adapter
from tests.support.tiny import tiny_llama

pytestmark = pytest.mark.engine
NAMES = ("", "math", "law")
IDS = prompt(40, 3)
TOKENS = 16


@pytest.fixture(scope="module")
def adapted(child: Child) -> Iterator[Driver]:
    """The tiny Llama with two adapters, idle."""
    folders = {name: str(tiny_adapter(name)) for name in NAMES if name}
    driver = Driver(child, tiny_llama(), adapters=folders)
    yield driver
    driver.unload()


@pytest.fixture
def driver(adapted: Driver) -> Driver:
    adapted.forget()
    adapted.tune(250)
    return adapted


def reference(child: Child, name: str, ids: tuple[int, ...] = IDS) -> list[int]:
    """What mlx-lm itself makes of it."""
    folder = str(tiny_adapter(name)) if name else None
    found: list[int] = child.call("reference", str(tiny_llama()), folder, ids, TOKENS)
    return found


def test_the_text_is_mlx_lms_alone_and_all_together(child: Child, driver: Driver) -> None:
    expected = {name: reference(child, name) for name in NAMES}
    assert len({tuple(text) for text in expected.values()}) == len(NAMES)
    for name in (*NAMES, ""):  # the model itself is as before when it was adapted meanwhile
        assert driver.alone(IDS, TOKENS, adapter=name) == expected[name]
    for request, name in enumerate(NAMES):
        driver.submit(request, IDS, TOKENS, adapter=name)
    driver.run()
    assert [driver.ids(n) for n in range(3)] == [expected[name] for name in NAMES]
    assert max(step.rows for step in driver.steps) == 3


def test_a_model_with_adapters_gives_the_text_of_one_without(
    drivers: Callable[[str], Driver], driver: Driver
) -> None:
    seeded = SamplingParams(temperature=0.9, seed=5)
    plain = drivers("llama").alone(IDS, TOKENS, sampling=seeded)
    assert driver.alone(IDS, TOKENS, sampling=seeded) == plain
    expected = drivers("llama").ready
    folders = [tiny_adapter(name) for name in NAMES if name]
    stored = sum(array.nbytes for one in folders for array in adapter_tensors(one).values())
    assert driver.ready.weights_bytes == expected.weights_bytes + stored


def test_rows_come_and_go_while_others_run(driver: Driver) -> None:
    """Prompts of one adapter are processed between the tokens of the others."""
    prompts = {n: (prompt(20 + 31 * n, n), NAMES[n % 3]) for n in range(6)}
    alone = {n: driver.alone(ids, TOKENS, adapter=name) for n, (ids, name) in prompts.items()}
    driver.tune(1)
    for request, (ids, name) in prompts.items():
        driver.submit(request, ids, TOKENS, adapter=name)
        driver.step()
        driver.step()
    driver.cancel(1)
    driver.run()
    for request in (0, 2, 3, 4, 5):
        assert driver.ids(request) == alone[request]
    assert sorted(driver.released) == list(range(6))


def test_what_is_held_goes_on_with_its_adapter(driver: Driver) -> None:
    alone = driver.alone(IDS, TOKENS, adapter="math")
    driver.submit(1, IDS, TOKENS, adapter="math", keep=(Keep(1, 30),), keep_end=2)
    driver.submit(2, IDS, 60, adapter="law")
    driver.run(until=lambda: len(driver.ids(1)) == 5)
    driver.cancel(1, hold=True)
    driver.run(until=lambda: 2 in driver.kept)
    said = tuple(driver.ids(1))
    held = driver.kept[2].tokens
    rest = {"adapter": "math", "generated": said, "reuse": Reuse(2, held)}
    driver.submit(3, IDS, TOKENS, **rest)
    driver.submit(4, IDS, TOKENS, adapter="math", reuse=Reuse(1, 30))
    driver.run()
    assert [*said, *driver.ids(3)] == alone
    assert driver.ids(4) == alone
    assert (driver.cached[3], driver.cached[4]) == (held, 30)
    driver.cache(drop=(1, 2))


def test_an_adapter_that_is_not_there_is_refused(driver: Driver) -> None:
    driver.submit(1, IDS, 4, adapter="other")
    driver.run()
    assert [fault.code for fault in driver.faults] == ["bad_request"]
    assert "'other'" in driver.faults[0].message
    assert driver.released == [1]


def test_a_step_that_fails_costs_only_its_own_adapters_rows_their_time(driver: Driver) -> None:
    alone = {name: driver.alone(IDS, TOKENS, adapter=name) for name in NAMES}
    driver.inject("model", 7)
    for request, name in enumerate(NAMES):
        driver.submit(request, IDS, TOKENS, adapter=name)
    driver.run()
    assert [driver.ids(n) for n in range(3)] == [alone[name] for name in NAMES]
    failed = [frame.fields["rows"] for frame in driver.frames if isinstance(frame, Log)]
    assert failed == [1]


def test_dora_is_done_too(child: Child, tmp_path: Path) -> None:
    write_adapter(tmp_path / "d", 3, "dora")
    driver = Driver(child, tiny_llama(), adapters={"d": str(tmp_path / "d")})
    expected = child.call("reference", str(tiny_llama()), str(tmp_path / "d"), IDS, TOKENS)
    assert driver.alone(IDS, TOKENS, adapter="d") == expected
    assert driver.alone(IDS, TOKENS) == reference(child, "") != expected
    driver.unload()


def test_packed_weights_take_adapters(child: Child, tmp_path: Path) -> None:
    packed, adapter = tmp_path / "packed", str(tiny_adapter("math"))
    child.call("quantise", str(tiny_llama()), str(packed))
    driver = Driver(child, packed, adapters={"math": adapter}, options={"dtype": "float32"})
    expected = child.call("reference", str(packed), adapter, IDS, TOKENS)
    assert driver.alone(IDS, TOKENS, adapter="math") == expected
    assert driver.alone(IDS, TOKENS) == child.call("reference", str(packed), None, IDS, TOKENS)
    assert driver.alone(IDS, TOKENS) != expected
    driver.unload()


def _missing(folder: Path) -> None:
    (folder / "adapters.safetensors").unlink()


def _foreign(folder: Path) -> None:
    rename(folder, "self_attn.q_proj", "self_attn.qkv_proj")


def _norm(folder: Path) -> None:
    rename(folder, "self_attn.q_proj", "input_layernorm")


def _wide(folder: Path) -> None:
    tensors = adapter_tensors(folder)
    name = "model.layers.2.mlp.down_proj.lora_a"
    save_file(tensors | {name: tensors[name][:512]}, folder / "adapters.safetensors")


def _infinite(folder: Path) -> None:
    tensors = adapter_tensors(folder)
    name = "model.layers.2.mlp.down_proj.lora_a"
    tensors[name][0, 0] = np.inf
    save_file(tensors, folder / "adapters.safetensors")


def _huge(folder: Path) -> None:
    name = "model.layers.2.self_attn.q_proj.lora_b"
    tensors = adapter_tensors(folder)
    enough = tensors[name] * np.float32(1e38 / np.abs(tensors[name]).max())
    save_file(tensors | {name: enough}, folder / "adapters.safetensors")


def _full(folder: Path) -> None:
    config = adapter_config() | {"fine_tune_type": "full"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def rename(folder: Path, old: str, new: str) -> None:
    tensors = adapter_tensors(folder)
    renamed = {name.replace(old, new): array for name, array in tensors.items()}
    save_file(renamed, folder / "adapters.safetensors")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_missing, "adapters.safetensors"),
        (_foreign, "has no layer 'model.layers.2.self_attn.qkv_proj'"),
        (_norm, "input_layernorm' takes no lora adapter"),
        (_wide, "(512, 4), and (768, 4) would fit"),
        (_infinite, "not finite"),
        (_huge, "the model does not run with it"),
        (_full, "a whole fine-tuned model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_at_load(
    child: Child, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(tiny_adapter("math"), folder)
    spoil(folder)
    with pytest.raises(LoadError) as caught:
        Driver(child, tiny_llama(), adapters={"bad": str(folder)})
    assert caught.value.code == "adapter_refused"
    assert "'bad'" in str(caught.value)
    assert reason in str(caught.value)
    assert str(folder) not in str(caught.value)


def test_an_adapter_is_refused_before_the_weights_are_read(child: Child, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(tiny_adapter("math"), folder)
    _wide(folder)
    weights = (tiny_llama() / "model.safetensors").stat().st_size
    spec = Load("tiny", "mlx", path=str(tiny_llama()), adapters={"bad": str(folder)})
    code, taken = child.call("refused_after", spec)
    assert code == "adapter_refused"
    assert taken < weights / 20


def test_what_adapters_take_is_not_the_models_pace(driver: Driver) -> None:
    before, after = driver.retried()
    assert before == after
