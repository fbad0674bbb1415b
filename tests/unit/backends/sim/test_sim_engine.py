"""The simulated engine: scripts, resumption, held states, faults."""

import threading
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.frames import (
    Cache,
    CacheChanged,
    Cancel,
    Fault,
    Keep,
    Kept,
    Load,
    Move,
    Ready,
    Released,
    Reuse,
    Started,
    Step,
    Submit,
    ToFront,
)
from opta_lmx.backends.protocol import Holder
from opta_lmx.backends.sim.engine import SimEngine
from opta_lmx.backends.sim.sharing import device
from opta_lmx.backends.statefile import read_head
from opta_lmx.core.types import DEFAULT_SAMPLING

PROMPT = tuple(b"hello world")


class Rig:
    """An engine without a process; `told` holds what it sent besides steps."""

    def __init__(self, **script: Any) -> None:
        self.told: list[ToFront] = []
        self.slept: list[float] = []
        self.engine = SimEngine(self.slept.append)
        spec = Load(model="m", backend="sim", options=script)
        self.ready, _ = self.engine.load(spec, self.told.append)
        self.slept.clear()

    def submit(self, request: int = 1, ids: tuple[int, ...] = PROMPT, **fields: Any) -> None:
        fields = {"max_tokens": 100, **fields}
        self.engine.submit(Submit(request, ids, DEFAULT_SAMPLING, **fields))

    def step(self) -> Step:
        step = self.engine.step()
        assert step is not None
        return step

    def steps(self, count: int) -> list[Step]:
        return [self.step() for _ in range(count)]

    def text(self, request: int = 1) -> bytes:
        """Run until nothing is left; what this request said."""
        said = b""
        while self.engine.busy:
            said += b"".join(one.piece for one in self.step().tokens if one.request == request)
        return said

    def kept(self) -> list[Kept]:
        changes = [frame for frame in self.told if isinstance(frame, CacheChanged)]
        return [kept for frame in changes for kept in frame.kept]

    def lost(self) -> list[int]:
        changes = [frame for frame in self.told if isinstance(frame, CacheChanged)]
        return [handle for frame in changes for handle in frame.lost]


def test_it_says_what_it_can() -> None:
    ready = Rig(resumes="unseeded", pauses=True, caches="whole").ready
    assert (ready.resumes, ready.pauses, ready.caches) == ("unseeded", True, "whole")
    plain = Rig().ready
    assert (plain.resumes, plain.pauses, plain.caches) == ("none", False, "none")
    assert isinstance(Rig().engine, Holder)
    assert isinstance(ready, Ready)


@pytest.mark.parametrize("script", [{"reply": "a b c d"}, {"reply": "é→x", "by_bytes": True}])
@pytest.mark.parametrize("delivered", range(4))
def test_an_answer_goes_on_after_what_was_delivered(script: dict[str, Any], delivered: int) -> None:
    whole = Rig(**script)
    whole.submit()
    said = whole.text()
    first, second = Rig(**script), Rig(**script)
    first.submit()
    tokens = [step.tokens[0] for step in first.steps(delivered)]
    second.submit(generated=tuple(token.id for token in tokens))
    assert b"".join(token.piece for token in tokens) + second.text() == said


def test_the_limit_counts_what_was_generated_before() -> None:
    rig = Rig(reply="a b c d e f")
    rig.submit(generated=(1, 2), max_tokens=4)
    first, second = (step.tokens[0] for step in rig.steps(2))
    assert (first.id, first.finish, second.id, second.finish) == (3, None, 4, "length")
    assert rig.told == [Released(1)]


def test_tokens_of_another_answer_are_refused() -> None:
    rig = Rig()
    rig.submit(generated=(1, 3))
    assert [type(frame) for frame in rig.told] == [Fault, Released]
    assert not rig.engine.busy


def test_a_held_row_goes_on_from_its_state() -> None:
    rig = Rig(reply="a b c d e", caches="trimmable", pauses=True, prefill_ms_per_token=1)
    rig.submit(keep_end=7)
    rig.steps(3)
    rig.engine.cancel(Cancel(1, hold=True))
    # The last token of the answer is not processed yet.
    assert rig.kept() == [Kept(7, len(PROMPT) + 2, 1000 * (len(PROMPT) + 2))]
    assert rig.told[-1] == Released(1)
    rig.submit(generated=(1, 2, 3), reuse=Reuse(7, len(PROMPT) + 2))
    step = rig.step()
    assert step.started == (Started(1, len(PROMPT) + 2),)
    assert (step.ms, step.tokens[0].piece) == (1, b"d ")


def test_checkpoints_are_kept_and_forked() -> None:
    rig = Rig(caches="whole", prefill_ms_per_token=1)
    rig.submit(keep=(Keep(3, 5),), keep_end=4)
    assert rig.step().ms == len(PROMPT)
    assert rig.kept() == [Kept(3, 5, 5000)]
    rig.submit(2, ids=(*PROMPT[:5], 99, 98), reuse=Reuse(3, 5))
    step = rig.step()
    assert (step.started, step.ms) == ((Started(2, 5),), 2)
    rig.text()
    assert rig.kept()[-1] == Kept(4, len(PROMPT) + 4, 1000 * (len(PROMPT) + 4))


@pytest.mark.parametrize(
    ("ability", "reuse", "cached"),
    [
        ("trimmable", Reuse(3, 4), 4),
        ("whole", Reuse(3, 4), 0),
        ("whole", Reuse(3, 5), 5),
        ("trimmable", Reuse(9, 5), 0),
        ("trimmable", Reuse(3, 6), 0),
    ],
)
def test_only_what_the_state_holds_is_reused(ability: str, reuse: Reuse, cached: int) -> None:
    rig = Rig(caches=ability)
    rig.submit(keep=(Keep(3, 5),))
    rig.text()
    rig.submit(2, reuse=reuse)
    assert rig.step().started == (Started(2, cached),)


def test_a_state_of_other_tokens_is_not_used() -> None:
    rig = Rig(caches="trimmable")
    rig.submit(keep=(Keep(3, 5),))
    rig.text()
    rig.submit(2, ids=tuple(b"other words"), reuse=Reuse(3, 5))
    assert rig.step().started == (Started(2, 0),)


def test_who_reuses_what_is_still_to_come_waits_for_it() -> None:
    rig = Rig(caches="trimmable")
    rig.submit(keep_end=5)
    rig.step()
    rig.submit(2, ids=(*PROMPT, 1, 2), reuse=Reuse(5, len(PROMPT) + 1))
    assert {token.request for token in rig.step().tokens} == {1}
    rig.engine.cancel(Cancel(1, keep=1))
    assert rig.step().started == (Started(2, 0),)
    assert 5 not in rig.lost()


def test_a_waiting_request_goes_on_when_the_state_will_not_come() -> None:
    rig = Rig(caches="whole")
    rig.submit(keep_end=5)
    rig.step()
    rig.submit(2, reuse=Reuse(5, 3))
    rig.engine.cancel(Cancel(1))
    assert rig.lost() == [5]
    assert rig.step().started == (Started(2, 0),)


def test_a_dropped_state_stays_until_who_wants_it_has_it() -> None:
    rig = Rig(caches="trimmable")
    rig.submit(keep=(Keep(3, 5),))
    rig.step()
    rig.submit(2, reuse=Reuse(3, 5))
    rig.engine.cache(Cache(drop=(3,)))
    assert rig.lost() == []
    assert rig.step().started == (Started(2, 5),)
    assert rig.lost() == [3]
    rig.engine.cache(Cache(drop=(3,)))
    assert rig.lost() == [3, 3]


def test_states_go_to_files_and_back(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    rig = Rig(caches="trimmable")
    rig.submit(keep=(Keep(3, 5),))
    rig.text()
    rig.engine.cache(Cache(spill=(Move(3, path, b"note"), Move(8, path))))
    head = read_head(Path(path))
    assert head is not None
    assert (head.tokens, head.note) == (5, b"note")
    other = Rig(caches="trimmable")
    other.engine.cache(Cache(load=(Move(1, path), Move(2, path + "x"))))
    assert (other.kept(), other.lost()) == ([Kept(1, 5, 5000)], [2])
    other.submit(reuse=Reuse(1, 5))
    assert other.step().started == (Started(1, 5),)


def test_steps_are_slow_from_here_to_there() -> None:
    rig = Rig(reply="a b c d e f", step_ms=10, slow_from=3, slow_to=5)
    rig.submit()
    assert [step.ms for step in rig.steps(6)] == [10, 10, 40, 40, 10, 10]
    assert rig.slept == [0.01, 0.01, 0.04, 0.04, 0.01, 0.01]


def test_one_row_may_fail_alone() -> None:
    rig = Rig(reply="a b c d", fault_at_step=2)
    rig.submit(1)
    rig.submit(2)
    rig.step()
    assert [token.request for token in rig.step().tokens] == [2]
    assert [type(frame) for frame in rig.told] == [Fault, Released]
    assert rig.text(2) == b"c d "


def test_long_prompts_take_several_steps_and_hold_what_is_done() -> None:
    rig = Rig(chunk=4, prefill_ms_per_token=2, step_ms=1, caches="trimmable", pauses=True)
    rig.submit(1, keep_end=7)
    first = rig.step()
    assert (first.ms, first.prefill, first.tokens) == (9, ((1, 4, len(PROMPT)),), ())
    rig.engine.cancel(Cancel(1, hold=True))
    assert rig.told == [CacheChanged(kept=(Kept(7, 4, 4000),)), Released(1)]
    rig.submit(2, reuse=Reuse(7, 4))
    steps = rig.steps(2)
    assert steps[0].started == (Started(2, 4),)
    assert [step.ms for step in steps] == [9, 1 + 2 * (len(PROMPT) - 8)]
    assert [len(step.tokens) for step in steps] == [0, 1]


def test_workers_of_one_device_compute_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    computing, enough = threading.Event(), threading.Event()

    def compute(name: str) -> None:
        with device(str(tmp_path / "device")):
            order.append(name)
            computing.set()
            enough.wait(5)
            order.append(name)

    first = threading.Thread(target=compute, args=("one",))
    second = threading.Thread(target=compute, args=("two",))
    first.start()
    assert computing.wait(5)
    second.start()
    second.join(0.1)
    assert order == ["one"]
    enough.set()
    for thread in (first, second):
        thread.join(5)
    assert order == ["one", "one", "two", "two"]
