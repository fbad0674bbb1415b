"""One device, several models: prompts in turn, and background held to its share."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opta_lmx.core.principal import Lane
from opta_lmx.scheduling.governor import (
    STUCK_S,
    BackgroundShare,
    DeviceGovernor,
    DeviceStep,
    GovernorLimits,
)

LIMITS = GovernorLimits(share=0.2, burst_ms=250, quantum_ms=500, ageing_s=10)
INTERACTIVE, AGENT, BACKGROUND = Lane


def decode(ms: float, **rows: int) -> DeviceStep:
    return DeviceStep(ms, {Lane[name.upper()]: count for name, count in rows.items()})


def chunk(ms: float, lane: Lane) -> DeviceStep:
    return DeviceStep(ms, {}, lane)


def test_what_of_a_step_is_background() -> None:
    assert decode(12, interactive=1, background=3).background_ms == 9
    assert decode(12, interactive=1, agent=3).background_ms == 0
    assert DeviceStep(12).background_ms == 0
    assert DeviceStep(12, {INTERACTIVE: 4}, BACKGROUND).background_ms == 12
    assert DeviceStep(12, {BACKGROUND: 4}, INTERACTIVE).background_ms == 0


class Device:
    """Workers that take the device in turn, one step after another, in simulated time."""

    def __init__(self, governor: DeviceGovernor) -> None:
        self.governor = governor
        self.now = 1000.0
        self.spent: dict[str, float] = {}

    def step(self, worker: str, step: DeviceStep) -> None:
        self.now += step.ms / 1000
        self.spent[worker] = self.spent.get(worker, 0.0) + step.ms
        self.governor.stepped(worker, step, self.now)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_background_of_another_model_gets_its_share_and_no_more(share: float) -> None:
    for seed in range(20):
        draw = random.Random(seed)
        governor = DeviceGovernor(GovernorLimits(share=share))
        device = Device(governor)
        governor.running("chat", {INTERACTIVE: 2}, device.now)
        governor.running("jobs", {BACKGROUND: 8}, device.now)
        began = device.now
        while device.now < began + 120:
            device.step("chat", decode(draw.uniform(5, 40), interactive=2))
            if not governor.background_held(device.now):
                device.step("jobs", decode(draw.uniform(10, 60), background=8))
        elapsed_ms = (device.now - began) * 1000
        assert device.spent["jobs"] <= share * elapsed_ms + 250 + 60
        # Work conserving where it can be: what is allowed is used, but for what is held back.
        allowed = min(share, 0.5)
        assert device.spent["jobs"] >= 0.9 * allowed * elapsed_ms - 250


def test_background_in_the_same_batch_pays_for_its_rows() -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    governor.running("m", {INTERACTIVE: 1, BACKGROUND: 3}, device.now)
    assert governor.background_wait_s(device.now) == pytest.approx(125 / 0.2 / 1000)
    device.now += 5.0
    steps = 0
    while not governor.background_held(device.now):
        device.step("m", decode(20, interactive=1, background=3))
        steps += 1
    # The credit is full by now; then each step earns 4 ms and spends 15: 250 - 15 - 22 x 11.
    assert steps == 23
    wait = governor.background_wait_s(device.now)
    assert wait == pytest.approx((125 + 7) / 0.2 / 1000)
    assert governor.background_held(device.now + wait - 0.001)
    assert not governor.background_held(device.now + wait + 0.001)


def test_without_interactive_rows_nothing_is_held() -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    governor.running("jobs", {BACKGROUND: 8, AGENT: 1}, device.now)
    for _ in range(1000):
        device.step("jobs", decode(50, background=8))
        assert not governor.background_held(device.now)
    governor.running("chat", {INTERACTIVE: 1}, device.now)
    device.step("jobs", decode(1000, background=8))
    assert governor.background_held(device.now)
    governor.running("chat", {}, device.now)
    assert not governor.background_held(device.now)
    assert governor.background_wait_s(device.now) == 0
    governor.running("chat", {INTERACTIVE: 1}, device.now)
    device.step("jobs", decode(1000, background=8))
    assert governor.background_held(device.now)
    governor.left("chat", device.now)
    assert not governor.background_held(device.now)


@given(
    st.floats(0.01, 0.9),
    st.floats(1, 1000),
    st.lists(
        st.tuples(st.sampled_from(["spend", "wait", "on", "off"]), st.floats(0, 2)), max_size=80
    ),
)
def test_the_share_holds_over_any_stretch(
    share: float, burst: float, events: list[tuple[str, float]]
) -> None:
    background, now = BackgroundShare(share, burst), 0.0
    spent: list[tuple[float, float]] = []
    running = False
    for what, amount in events:
        if what == "wait":
            now += amount
        elif what in ("on", "off"):
            if running != (what == "on"):
                spent.clear()
            running = what == "on"
            background.interactive(now, running=running)
        elif not background.held(now):
            now += amount
            background.spend(amount * 1000, now)
            if running:
                spent.append((now - amount, amount * 1000))
        for index, (began, last) in enumerate(spent):
            total = sum(ms for _, ms in spent[index:])
            longest = max(ms for _, ms in spent[index:])
            assert total <= share * (now - began) * 1000 + burst + longest + 1e-6, last
        if not running:
            assert not background.held(now)


def test_one_worker_processes_prompts_at_a_time_and_they_take_turns() -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    for name in ("a", "b", "c"):
        governor.waiting(name, {INTERACTIVE: 1}, device.now)
    turns: list[str] = []
    for _ in range(60):
        worker = governor.prefilling(device.now)
        assert worker is not None
        assert [governor.may_prefill(name, device.now) for name in "abc"].count(True) == 1
        turns.append(worker)
        device.step(worker, chunk(100, INTERACTIVE))
    assert turns == [name for name in "abc" for _ in range(5)] * 4
    assert len(set(device.spent.values())) == 1


def test_whoever_is_alone_is_never_kept_waiting() -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    governor.waiting("a", {BACKGROUND: 1}, device.now)
    for _ in range(100):
        assert governor.may_prefill("a", device.now)
        device.step("a", chunk(200, BACKGROUND))
    governor.waiting("a", {}, device.now)
    assert governor.prefilling(device.now) is None


@pytest.mark.parametrize("slow", [AGENT, BACKGROUND])
@pytest.mark.parametrize("fast", [INTERACTIVE, AGENT])
def test_a_more_urgent_prompt_takes_over_at_the_next_chunk(slow: Lane, fast: Lane) -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    governor.waiting("jobs", {slow: 3}, device.now)
    for _ in range(200):  # long enough for it to have aged, were it waiting
        assert governor.may_prefill("jobs", device.now)
        device.step("jobs", chunk(150, slow))
    governor.waiting("chat", {fast: 1}, device.now)
    if fast < slow:
        assert governor.may_prefill("chat", device.now)
        device.step("chat", chunk(200, fast))
        assert governor.may_prefill("chat", device.now)
    governor.waiting("chat", {}, device.now)
    assert governor.may_prefill("jobs", device.now)


def test_ageing_bounds_the_wait_of_the_lowest() -> None:
    for lane, bound_s in ((AGENT, 20.0), (BACKGROUND, 30.0)):
        governor = DeviceGovernor(LIMITS)
        device = Device(governor)
        governor.waiting("low", {lane: 1}, device.now)
        governor.waiting("chat", {INTERACTIVE: 1}, device.now)
        waits: list[float] = []
        last = device.now
        while device.now < 1000 + 300:
            if governor.may_prefill("low", device.now):
                waits.append(device.now - last)
                device.step("low", chunk(250, lane))
                last = device.now
            else:
                device.step("chat", chunk(250, INTERACTIVE))
                # Prompts end and others come: those that have just come have not waited.
                governor.waiting("chat", {}, device.now)
                governor.waiting("chat", {INTERACTIVE: 1}, device.now)
        assert waits
        assert max(waits) <= bound_s + 1
        assert device.spent["low"] <= 0.1 * device.spent["chat"]


def test_background_prompts_are_held_with_background_rows() -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    governor.running("chat", {INTERACTIVE: 1}, device.now)
    governor.waiting("jobs", {BACKGROUND: 1}, device.now)
    while governor.may_prefill("jobs", device.now):
        device.step("jobs", chunk(100, BACKGROUND))
    assert governor.background_held(device.now)
    assert governor.prefilling(device.now) is None
    governor.waiting("jobs", {BACKGROUND: 1, AGENT: 1}, device.now)
    assert governor.may_prefill("jobs", device.now)
    governor.waiting("jobs", {BACKGROUND: 1}, device.now)
    governor.running("chat", {}, device.now)
    assert governor.may_prefill("jobs", device.now)


def test_a_worker_that_is_stuck_or_gone_does_not_block_the_others() -> None:
    governor = DeviceGovernor(LIMITS)
    device = Device(governor)
    governor.waiting("a", {INTERACTIVE: 1}, device.now)
    assert governor.may_prefill("a", device.now)
    governor.waiting("b", {BACKGROUND: 1}, device.now)
    assert not governor.may_prefill("b", device.now)
    device.now += STUCK_S + 0.01
    assert governor.may_prefill("b", device.now)
    device.step("b", chunk(50, BACKGROUND))
    assert governor.may_prefill("b", device.now)
    governor.stepped("a", chunk(100, INTERACTIVE), device.now)
    assert governor.may_prefill("a", device.now)
    governor.left("a", device.now)
    assert governor.may_prefill("b", device.now)
    governor.left("b", device.now)
    assert governor.prefilling(device.now) is None


WORKERS = ("a", "b", "c")
Event = tuple[str, str, Lane, int]
events = st.lists(
    st.tuples(
        st.sampled_from(["running", "waiting", "step", "chunk", "pause", "leave"]),
        st.sampled_from(WORKERS),
        st.sampled_from(Lane),
        st.integers(0, 3),
    ),
    max_size=120,
)


@settings(max_examples=200)
@given(events)
def test_whatever_happens_someone_may_go_on_and_only_one(history: list[Event]) -> None:
    governor, now = DeviceGovernor(LIMITS), 0.0
    wants: dict[str, dict[Lane, int]] = {}
    rows: dict[str, dict[Lane, int]] = {}
    for what, worker, lane, count in history:
        now += count / 4 if what == "pause" else 0.05
        match what:
            case "running":
                rows.setdefault(worker, {})[lane] = count
            case "waiting":
                wants.setdefault(worker, {})[lane] = count
            case "leave":
                rows.pop(worker, None)
                wants.pop(worker, None)
                governor.left(worker, now)
            case "step":
                governor.stepped(worker, decode(50, **{lane.name: 1}), now)
            case "chunk":
                governor.stepped(worker, chunk(50, lane), now)
            case _:
                pass
        governor.running(worker, rows.get(worker, {}), now)
        governor.waiting(worker, wants.get(worker, {}), now)
        held = governor.background_held(now)
        able = {
            name
            for name, lanes in wants.items()
            if any(count for lane, count in lanes.items() if not (held and lane is BACKGROUND))
        }
        may = [name for name in WORKERS if governor.may_prefill(name, now)]
        assert len(may) == bool(able)
        assert set(may) <= able
        interactive = any(lanes.get(INTERACTIVE) for lanes in rows.values())
        assert interactive or not held
