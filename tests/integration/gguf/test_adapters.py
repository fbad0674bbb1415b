"""LoRA adapters beside a model: each request gets the one it names, and only that."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opta_lmx.backends.frames import Cancel, Fault, TokenOut
from opta_lmx.core.types import SamplingParams
from tests.support.drafts import tiny_draft
from tests.support.gguf_adapters import adapter_tensors, merged_gguf, tiny_adapter, write_adapter
from tests.support.gguf_child import Child
from tests.support.tiny import tiny_gguf
from tests.support.waiting import wait_until

pytestmark = pytest.mark.engine
LONG = tuple(100 + place * 37 % 3900 for place in range(300))
OTHER = tuple(100 + place * 53 % 3900 for place in range(260))
NAMES = ("", "one", "two")


def serving(**load: Any) -> Child:
    adapters = {"one": str(tiny_adapter(1)), "two": str(tiny_adapter(2))}
    child = Child(tiny_gguf(), **{"context": 1024, "adapters": adapters, **load})
    child.ready()
    return child


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def wanted() -> dict[str, list[int]]:
    """What each says: the model alone, and with each adapter added into its weights."""
    said: dict[str, list[int]] = {}
    paths = (tiny_gguf(), merged_gguf(1), merged_gguf(2))
    for name, path in zip(NAMES, paths, strict=True):
        with Child(path, context=1024, slots=1) as alone:
            alone.ready()
            said[name] = told(alone.generate(LONG, max_tokens=16))
    return said


def told(tokens: list[TokenOut]) -> list[int]:
    return [out.id for out in tokens]


def submit(
    child: Child, name: str, ids: tuple[int, ...] = LONG, count: int = 16, **more: Any
) -> int:
    return child.submit(ids, count, adapter=name, salt=f"salt of {name}", **more)


def ask(child: Child, name: str, ids: tuple[int, ...] = LONG, **more: Any) -> tuple[int, list[int]]:
    """How many tokens were cached, and the answer."""
    number = submit(child, name, ids, **more)
    child.wait(number)
    (cached,) = child.started(number)
    return cached, told(child.tokens(number))


def test_each_says_what_the_merged_model_says(child: Child, wanted: dict[str, list[int]]) -> None:
    assert len({tuple(answer) for answer in wanted.values()}) == len(NAMES)
    for name in (*NAMES, *reversed(NAMES)):
        assert ask(child, name)[1] == wanted[name]


def test_what_one_left_in_a_slot_is_never_anothers(wanted: dict[str, list[int]]) -> None:
    """The same salt by mistake: the tokens are the same, what they left behind is not."""
    with serving(slots=1) as child:
        cached: list[int] = []
        for name in ("one", "two", "", "", "one", "one", "two"):
            number = child.submit(LONG, 16, adapter=name)
            child.wait(number)
            assert told(child.tokens(number)) == wanted[name]
            cached += child.started(number)
        assert cached == [0, 0, 0, 299, 0, 299, 0]


def test_all_at_once(child: Child, wanted: dict[str, list[int]]) -> None:
    names = NAMES * 3
    numbers = [submit(child, name) for name in names]
    child.wait(*numbers)
    for number, name in zip(numbers, names, strict=True):
        # Beside another row a choice between close tokens may fall otherwise, later on.
        assert told(child.tokens(number))[:6] == wanted[name][:6]
        assert len(child.tokens(number)) == 16
    assert child.of(Fault) == []


def test_a_long_answer_of_one_does_not_shut_out_another(child: Child) -> None:
    first = submit(child, "one", count=600)
    child.read_until(lambda: len(child.tokens(first)) > 3)
    second = submit(child, "two", OTHER)
    later = [submit(child, "one", OTHER[place:], 8) for place in range(6)]
    child.wait(first, second, *later)
    ends = [step for step in child.frames if getattr(step, "tokens", ())]
    order = [out.request for step in ends for out in step.tokens if out.finish is not None]
    assert order.index(second) < min(order.index(number) for number in later)


def test_paused_and_brought_back(wanted: dict[str, list[int]]) -> None:
    with serving(slots=1) as child:
        for name in ("one", ""):
            got: list[int] = []
            for _ in range(2):
                number = submit(child, name, count=600, generated=tuple(got))
                child.read_until(lambda n=number: len(child.tokens(n)) >= 4)
                child.send(Cancel(number, hold=True))
                child.wait(number)
                got += told(child.tokens(number))
                ask(child, "two", OTHER)
            last = submit(child, name, count=len(got) + 8, generated=tuple(got))
            child.wait(last)
            assert (got + told(child.tokens(last)))[:16] == wanted[name]
            assert child.started(last)[0] >= len(LONG), "what was put aside came back"


def test_copies_between_slots_that_others_used() -> None:
    with serving(slots=3) as child:
        for place, name in enumerate(("one", "two", "")):
            ask(child, name, OTHER[place:])
        ask(child, "one", (*LONG, *OTHER))
        branch = (*LONG, *OTHER[:3], *reversed(OTHER))
        cached, answer = ask(child, "one", branch)
        assert cached >= len(LONG)
        with serving(slots=1) as fresh:
            assert ask(fresh, "one", branch) == (0, answer)


def test_files_of_slots_are_an_adapters_own(tmp_path: Path, wanted: dict[str, list[int]]) -> None:
    options = {"slot_dir": str(tmp_path), "slot_quiet_s": 0.05}
    with serving(options=options) as child:
        for name in NAMES:
            ask(child, name)
        wait_until(lambda: len([*tmp_path.glob("*/*.note")]) == len(NAMES))
    with serving(options=options) as child:
        for name in ("two", "", "one"):
            assert ask(child, name) == (299, wanted[name])
    changed = {"one": str(tiny_adapter(1)), "two": str(tiny_adapter(3))}
    with serving(options=options, adapters=changed) as child:
        cached, answer = ask(child, "two")
        assert cached == 0
        assert answer != wanted["two"]


def test_beside_a_draft_model(wanted: dict[str, list[int]]) -> None:
    with serving(draft=str(tiny_draft()), draft_tokens=3) as child:
        for name in NAMES:
            assert ask(child, name)[1] == wanted[name]


def test_a_seed_draws_the_same_again(child: Child) -> None:
    seeded = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=11)
    answers = [ask(child, name, sampling=seeded)[1] for name in ("one", "", "one")]
    assert answers[0] == answers[2] != answers[1]


def test_texts_are_the_models_own(child: Child) -> None:
    with Child(tiny_gguf(), context=1024, slots=1) as plain:
        assert child.ids("def main") == plain.ids("def main")


def test_a_name_that_was_not_loaded_is_refused(child: Child) -> None:
    number = child.submit(LONG, adapter="three")
    child.wait(number)
    (fault,) = [frame for frame in child.of(Fault) if frame.id == number]
    assert (fault.code, fault.message) == ("bad_request", "no adapter 'three' is loaded")
    child.frames.remove(fault)
    child.times.pop()


Tensors = dict[str, Any]
QUERY = "blk.0.attn_q.weight"


def pair(a: tuple[int, int], b: tuple[int, int], name: str = QUERY, kind: Any = "f4") -> Tensors:
    return {f"{name}.lora_a": np.ones(a, kind), f"{name}.lora_b": np.ones(b, kind)}


GOOD = pair((4, 256), (256, 4))
BROKEN: dict[str, Callable[[Path], object]] = {
    "the file is no LoRA adapter": lambda path: write_adapter(path, GOOD, general="model"),
    "it is for 'qwen2', the model is 'llama'": lambda path: write_adapter(
        path, GOOD, architecture="qwen2"
    ),
    "it has no tensors": lambda path: write_adapter(path, {}),
    f"half of its pair for '{QUERY}' is missing": lambda path: write_adapter(
        path, {f"{QUERY}.lora_a": GOOD[f"{QUERY}.lora_a"]}
    ),
    "its tensor 'blk.0.attn_norm.weight' is no part of a LoRA": lambda path: write_adapter(
        path, {**GOOD, "blk.0.attn_norm.weight": np.ones(256, "f4")}
    ),
    "the model has no tensor 'blk.9.attn_q.weight'": lambda path: write_adapter(
        path, pair((4, 256), (256, 4), "blk.9.attn_q.weight")
    ),
    f"its tensors for '{QUERY}' have other shapes than the model's": lambda path: write_adapter(
        path, pair((4, 128), (256, 4))
    ),
    "have other shapes than": lambda path: write_adapter(path, pair((4, 256), (256, 8))),
    "is of type I32": lambda path: write_adapter(path, pair((4, 256), (256, 4), kind="i4")),
    "its adapter.lora.alpha is no finite 32-bit float": lambda path: write_adapter(
        path, GOOD, alpha=float("nan")
    ),
    "the model's tensor 'output_norm.weight' is no matrix": lambda path: write_adapter(
        path, pair((4, 256), (1, 4), "output_norm.weight")
    ),
    "is not supported": lambda path: write_adapter(
        path, GOOD, adapter__alora__invocation_tokens="x"
    ),
    "Not a usable GGUF file": lambda path: path.write_bytes(tiny_adapter(1).read_bytes()[:-100]),
    "it cannot be read": lambda _: None,
    "no finite probabilities": lambda path: write_adapter(
        path, {name: tensor * np.float32("nan") for name, tensor in adapter_tensors(1).items()}
    ),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_an_adapter_that_cannot_be_used_is_named(tmp_path: Path, reason: str) -> None:
    bad = tmp_path / "bad.gguf"
    BROKEN[reason](bad)
    with Child(
        tiny_gguf(), context=256, adapters={"good": str(tiny_adapter(1)), "bad": str(bad)}
    ) as child:
        fault = child.fault()
    assert fault.code == "adapter_refused"
    assert fault.message.startswith("its adapter 'bad' cannot be used: ")
    assert reason in fault.message
