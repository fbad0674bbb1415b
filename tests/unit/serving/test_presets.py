"""Explicit goes before preset, preset before the model's own."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.core.types import (
    DEFAULT_SAMPLING,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
)
from opta_lmx.models.presets import Preset
from opta_lmx.serving.presets import filled

NUMBER = st.none() | st.sampled_from([0.0, 0.5, 0.7, 1.0])
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=NUMBER,
    top_p=NUMBER,
    top_k=st.none() | st.integers(0, 3),
    min_p=NUMBER,
    seed=st.none() | st.integers(0, 3),
    frequency_penalty=NUMBER,
    presence_penalty=NUMBER,
    repetition_penalty=NUMBER,
)
STOPS = st.none() | st.lists(st.sampled_from("ab"), max_size=2).map(tuple)
KWARGS = st.dictionaries(
    st.sampled_from(["reasoning_effort", "enable_thinking", "thinking_budget", "style"]),
    st.integers(0, 3),
)
TURNS = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant"]),
        st.sampled_from(["words", "", " \n"]),
        retold=st.booleans(),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@given(asked=SAMPLINGS, preset=SAMPLINGS, model=SAMPLINGS, stop=STOPS, preset_stop=STOPS)
def test_who_says_a_value_first_wins(
    asked: SamplingParams,
    preset: SamplingParams,
    model: SamplingParams,
    stop: tuple[str, ...] | None,
    preset_stop: tuple[str, ...] | None,
) -> None:
    request = GenerationRequest("preset:p", Prompt(text="x"), asked, stop=stop)
    found = filled(request, Preset("p", "m", sampling=preset, stop=preset_stop))
    used = msgspec.structs.asdict(found.sampling.resolve(model, DEFAULT_SAMPLING))
    layers = [msgspec.structs.asdict(one) for one in (asked, preset, model, DEFAULT_SAMPLING)]
    for name, value in used.items():
        assert value == next((one[name] for one in layers if one[name] is not None), None)
    assert found.stop == (preset_stop if stop is None else stop)
    assert found.model == "preset:p"


@given(turns=TURNS, asked=KWARGS, preset=KWARGS)
def test_instructions_and_hints(
    turns: tuple[Message, ...], asked: dict[str, Any], preset: dict[str, Any]
) -> None:
    request = GenerationRequest("p", Prompt(messages=turns, template_kwargs=asked))
    found = filled(
        request, Preset("p", "m", system_prompt="Be brief.", template_kwargs=preset)
    ).prompt
    own = any(t.role == "system" and t.content.strip() and not t.retold for t in turns)
    if own:
        assert found.messages == turns
    else:
        assert found.messages[0].role == "system"
        assert found.messages[0].content.split("\n\n")[0] == "Be brief."
    assert found.template_kwargs.items() >= asked.items()
    thinking = {"reasoning_effort", "enable_thinking", "thinking_budget"}
    for name, value in preset.items():
        if name in thinking and thinking & asked.keys():
            assert found.template_kwargs.get(name) == asked.get(name)
        elif name not in asked:
            assert found.template_kwargs[name] == value


def test_without_a_preset_nothing_changes() -> None:
    request = GenerationRequest("m", Prompt(text="x"))
    assert filled(request, None) is request


def test_text_that_is_continued_gets_no_instructions() -> None:
    prompt = Prompt(text="Once")
    preset = Preset("p", "m", system_prompt="Be brief.", template_kwargs={"style": 1})
    assert filled(GenerationRequest("p", prompt), preset).prompt is prompt


def test_a_conversation_that_is_retold_keeps_the_presets_instructions() -> None:
    turns = (Message("system", "They met.", retold=True), Message("user", "And then?"))
    preset = Preset("p", "m", system_prompt="Be brief.")
    told = filled(GenerationRequest("p", Prompt(messages=turns)), preset).prompt.messages
    assert [turn.role for turn in told] == ["system", "user"]
    assert told[0].content == "Be brief.\n\nThey met."


@pytest.mark.parametrize("retold_first", [True, False])
def test_instructions_beside_what_is_retold_are_the_clients(retold_first: bool) -> None:
    rules = [Message("system", "They met.", retold=True), Message("system", "Answer in French.")]
    turns = merge_adjacent([*(rules if retold_first else rules[::-1]), Message("user", "And?")])
    preset = Preset("p", "m", system_prompt="Be brief.")
    assert filled(GenerationRequest("p", Prompt(messages=turns)), preset).prompt.messages == turns


def test_what_a_preset_filled_is_told() -> None:
    preset = Preset("p", "m", sampling=SamplingParams(temperature=0.5, repetition_penalty=1.2))
    asked = GenerationRequest("p", Prompt(text="x"), SamplingParams(temperature=0.1))
    found = filled(asked, preset).filled_by
    assert found is not None
    assert (found.name, found.digest, found.fields) == (
        "p",
        preset.digest,
        ("repetition_penalty",),
    )
