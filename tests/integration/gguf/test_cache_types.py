"""Keys and values in fewer bits: less memory, truly, for a model that goes on as it should."""

from pathlib import Path

import pytest

from opta_lmx.backends.frames import Load, Step
from opta_lmx.backends.gguf.machine import this_machine
from opta_lmx.backends.gguf.plan import GgufOptions, make_plan
from opta_lmx.backends.gguf.speculation import cache_type, set_draft
from opta_lmx.backends.statefile import read_head
from opta_lmx.models.gguf_info import read_gguf_info
from tests.support import tiny
from tests.support.drafts import tiny_draft
from tests.support.gguf_child import Child
from tests.support.tiny import tiny_gguf, tiny_llama, write_gguf
from tests.support.waiting import wait_until

pytestmark = pytest.mark.engine
MIB = 1 << 20
LONG = tuple(100 + place * 37 % 3900 for place in range(300))


def holding(kv_type: str, **load: object) -> Child:
    return Child(tiny_gguf(), context=512, options={"kv_type": kv_type}, **load)


def resident_mib(child: Child) -> float:
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_engine_takes_what_is_said(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", context=65_536)
    taken: list[tuple[float, float]] = []
    for kv_type in ("f16", "q4_0"):
        options = {"kv_type": kv_type, "kv_bytes": 1 << 30}
        with Child(tmp_path / "m.gguf", slots=2, context=65_536, options=options) as child:
            taken.append((child.ready().kv_bytes / MIB, resident_mib(child)))
    (usual, usual_seen), (small, small_seen) = taken
    assert (usual, small) == (256, 72)
    assert usual_seen - small_seen == pytest.approx(usual - small, rel=0.1)


def test_eight_bits_change_little_and_prompts_are_reused() -> None:
    with holding("f16") as plain, holding("q8_0") as eight:
        plain.ready()
        (whole,) = plain.generate(LONG, max_tokens=1, top_logprobs=0)
        eight.ready()
        (held,) = eight.generate(LONG, max_tokens=1, top_logprobs=0)
        (again,) = eight.generate(LONG, max_tokens=1, top_logprobs=0)
    assert whole.logprob != held.logprob, "the type has no effect"
    assert whole.id == held.id == again.id
    assert held.logprob == pytest.approx(whole.logprob, abs=0.05)
    assert again.logprob == pytest.approx(held.logprob, abs=1e-3)


@pytest.mark.parametrize("kv_type", ["f16", "q4_0"])
def test_a_draft_model_is_told_to_hold_its_own_in_the_same_way(kv_type: str) -> None:
    import xllamacpp

    load = Load("m", "gguf", "m.gguf", draft="d.gguf", draft_tokens=2)
    options = GgufOptions(kv_type=kv_type)
    plan = make_plan(read_gguf_info(tiny_gguf()), load, options, this_machine(0))
    params = xllamacpp.CommonParams()
    usual = params.speculative.draft.cache_type_k
    set_draft(xllamacpp, params, plan, options)
    draft = params.speculative.draft
    assert draft.cache_type_k == draft.cache_type_v == cache_type(xllamacpp, options)
    assert (draft.cache_type_k == usual) == (kv_type == "f16")


def test_a_model_with_a_draft_model_drafts_in_four_bits() -> None:
    with holding("q4_0", draft=str(tiny_draft()), draft_tokens=2) as child:
        child.ready()
        number = child.submit(LONG, max_tokens=16)
        child.wait(number)
        assert len(child.tokens(number)) == 16
        assert any(step.drafts for step in child.of(Step))


def test_what_another_type_wrote_is_not_read(tmp_path: Path) -> None:
    cached: list[int] = []
    writers: list[str] = []
    for kv_type in ("f16", "f16", "q8_0"):
        options = {"kv_type": kv_type, "slot_dir": str(tmp_path), "slot_quiet_s": 0.05}
        with Child(tiny_gguf(), context=512, slots=2, options=options) as child:
            child.ready()
            if kv_type == "q8_0":
                wait_until(lambda: not any(tmp_path.glob("*/*.note")))
            number = child.submit(LONG, max_tokens=4)
            child.wait(number)
            cached += child.started(number)
            wait_until(lambda: any(tmp_path.glob("*/*.note")))
            head = read_head(next(tmp_path.glob("*/*.note")))
            assert head is not None
            writers.append(head.engine)
    assert cached == [0, len(LONG) - 1, 0]
    assert writers[0] == writers[1] != writers[2]


def test_heads_that_fill_no_block_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = tiny_llama()
    for name, count in (("_HEADS", 16), ("_KV_HEADS", 8), ("_HEAD_DIM", 16)):
        monkeypatch.setattr(tiny, name, count)
    write_gguf(tmp_path / "m.gguf", folder=llama)
    with Child(tmp_path / "m.gguf", context=512, options={"kv_type": "q8_0"}) as child:
        fault = child.fault()
    assert fault.code == "kv_type_refused"
    assert "kv_type 'q8_0'" in fault.message
    assert "does not divide" in fault.message


def test_a_type_nobody_knows_is_refused() -> None:
    with holding("q2_k") as child:
        assert "kv_type" in child.fault().message
