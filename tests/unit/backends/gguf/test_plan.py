"""Windows, slots and batches fitted to models and machines."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Load
from opta_lmx.backends.gguf.plan import GgufOptions, Machine, Plan, make_plan
from opta_lmx.models.description import KvGroup, ModelInfo

GIB = 1 << 30
KV_BYTES_PER_TOKEN = 2 * 30 * (192 + 192)


def plan(
    *,
    trained: int = 8192,
    context: int = 0,
    slots: int = 8,
    memory: int = 64 * GIB,
    cores: int = 8,
    threads: int = 0,
    accelerator: bool = False,
    weights: int = 100 << 20,
    kv: tuple[KvGroup, ...] = (KvGroup(30, 192, 192),),
    options: GgufOptions | None = None,
    **more: Any,
) -> Plan:
    info = ModelInfo(
        format="gguf",
        architecture="llama",
        context_length=trained,
        quantisation="Q4_0",
        parameters=1,
        size_bytes=weights,
        weights_bytes=weights,
        layers=30,
        vocabulary=1000,
        kv=kv,
    )
    spec = Load(model="m", backend="gguf", context=context, slots=slots, threads=threads, **more)
    machine = Machine(memory_bytes=memory, cores=cores, accelerator=accelerator)
    return make_plan(info, spec, options or GgufOptions(), machine)


def test_a_smaller_type_of_cache_holds_more_tokens() -> None:
    eight = plan(options=GgufOptions(kv_type="q8_0"))
    assert (eight.cells, eight.cell_bytes) == (8 * 8192, KV_BYTES_PER_TOKEN * 17 // 32)
    tight = [plan(options=GgufOptions(kv_bytes=GIB, kv_type=each)) for each in ("f16", "q4_0")]
    assert [made.shared for made in tight] == [True, False]
    assert all(made.cells * made.cell_bytes <= GIB for made in tight)


def test_every_slot_has_its_own_full_window_where_memory_allows() -> None:
    made = plan()
    assert (made.context, made.slots, made.cells, made.shared) == (8192, 8, 8 * 8192, False)
    assert made.cell_bytes == KV_BYTES_PER_TOKEN


def test_slots_share_one_cache_where_it_does_not() -> None:
    made = plan(memory=8 * GIB)
    assert made.context == 8192
    assert made.shared
    assert 8192 <= made.cells < 8 * 8192
    assert made.cells * made.cell_bytes <= GIB


def test_one_whole_window_is_always_there() -> None:
    made = plan(context=8192, options=GgufOptions(kv_bytes=1))
    assert (made.context, made.cells, made.shared) == (8192, 8192, True)


def test_default_window_is_bounded_and_an_explicit_one_is_kept() -> None:
    assert plan(trained=131_072, memory=512 * GIB).context == 32_768
    assert plan(trained=131_072, memory=512 * GIB, context=100_000).context == 100_000
    assert plan(trained=4096, context=100_000).context == 4096
    assert plan(trained=0).context == 4096


def test_default_window_shrinks_to_what_fits() -> None:
    made = plan(trained=32_768, options=GgufOptions(kv_bytes=10_000 * KV_BYTES_PER_TOKEN))
    assert made.context == 9984


def test_sliding_layers_cost_their_window_only() -> None:
    sliding = (KvGroup(15, 256, 256, window=512), KvGroup(3, 256, 256))
    made = plan(trained=32_768, kv=sliding, memory=16 * GIB)
    assert made.cell_bytes == 2 * 3 * 512
    assert not made.shared


def test_sliding_layers_keep_all_they_saw_where_memory_allows() -> None:
    sliding = (KvGroup(15, 256, 256, window=512), KvGroup(3, 256, 256))
    roomy, tight = plan(kv=sliding), plan(kv=sliding, memory=8 * GIB)
    assert (roomy.whole_windows, roomy.cell_bytes) == (True, 2 * 18 * 512)
    assert not roomy.shared
    assert (tight.whole_windows, tight.cell_bytes) == (False, 2 * 3 * 512)
    assert not plan().whole_windows, "this model has no windows"


def test_restore_points_stay_within_a_quarter_of_the_budget() -> None:
    sliding = (KvGroup(15, 256, 256, window=512),)
    assert plan(kv=sliding, trained=32_768, memory=16 * GIB).checkpoints == 4
    assert plan(kv=sliding).checkpoints == 0, "whole windows need none"
    assert plan(kv=sliding, options=GgufOptions(kv_bytes=1 << 20)).checkpoints == 0


def test_models_without_a_growing_cache_are_never_short_of_it() -> None:
    assert not plan(kv=(), options=GgufOptions(kv_bytes=1)).shared


def test_threads_leave_a_small_machine_its_second_core() -> None:
    assert [plan(cores=cores).threads for cores in (1, 2, 4, 16)] == [1, 1, 4, 16]
    assert plan(cores=2, threads=2).threads == 2


def test_batch_is_small_where_a_cancel_waits_for_a_processor() -> None:
    assert plan().batch == 64
    assert plan(weights=4 * GIB).batch == 32
    assert plan(accelerator=True).batch == 512
    assert plan(options=GgufOptions(batch=100)).batch == 100


@given(
    trained=st.integers(1, 300_000),
    context=st.integers(0, 300_000),
    slots=st.integers(1, 64),
    memory=st.integers(1 << 20, 1 << 40),
)
def test_a_plan_always_holds_one_window(
    trained: int, context: int, slots: int, memory: int
) -> None:
    made = plan(trained=trained, context=context, slots=slots, memory=memory)
    assert 0 < made.context <= trained
    assert made.context <= made.cells
    assert made.shared or made.cells >= made.context * slots
    if context and context <= trained:
        assert made.context == context


@given(st.integers(1, 64), st.integers(1, 64), st.booleans())
def test_the_guesses_of_all_slots_fit_one_batch(slots: int, ahead: int, accelerator: bool) -> None:
    made = plan(slots=slots, accelerator=accelerator, draft="d.gguf", draft_tokens=ahead)
    assert made.batch >= slots * (ahead + 1)
    assert (made.draft, made.draft_tokens) == ("d.gguf", ahead)
    alone = plan(slots=slots, accelerator=accelerator)
    assert made.batch == max(alone.batch, slots * (ahead + 1))
    assert alone.draft_tokens == 0
