"""A preset fills what a request left open: explicit > preset > the model's own > ours."""

from collections.abc import Mapping
from typing import Any

import msgspec

from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.core.types import Filling, GenerationRequest, Message, Prompt, SamplingParams
from opta_lmx.models.presets import Preset

_THINKING = ("reasoning_effort", "enable_thinking", "thinking_budget")
"""Variables of chat templates that say one thing together: how much the model thinks."""


def filled(request: GenerationRequest, preset: Preset | None) -> GenerationRequest:
    """The request with what the preset says where it says nothing itself.

    Its answer's length is not among that: a key's cap and a preset's bound are both defaults,
    of which the lower one counts.

    Args:
        request: as its caller made it.
        preset: None where the request named a model.
    """
    if preset is None:
        return request
    return msgspec.structs.replace(
        request,
        prompt=_introduced(request.prompt, preset),
        sampling=request.sampling.resolve(preset.sampling),
        stop=preset.stop if request.stop is None else request.stop,
        filled_by=Filling(preset.name, preset.digest, _filled_fields(request.sampling, preset)),
    )


def _filled_fields(asked: SamplingParams, preset: Preset) -> tuple[str, ...]:
    said, ours = msgspec.structs.asdict(asked), msgspec.structs.asdict(preset.sampling)
    return tuple(name for name in ours if said[name] is None and ours[name] is not None)


def _introduced(prompt: Prompt, preset: Preset) -> Prompt:
    """A conversation with the preset's instructions; other prompts are continued as they stand."""
    if not prompt.messages:
        return prompt
    messages = prompt.messages
    if preset.system_prompt and not any(_instructs(turn) for turn in messages):
        messages = merge_adjacent([Message("system", preset.system_prompt), *messages])
    kwargs = _joined(prompt.template_kwargs, preset.template_kwargs)
    return msgspec.structs.replace(prompt, messages=messages, template_kwargs=kwargs)


def _instructs(turn: Message) -> bool:
    """Empty instructions are none in every dialect: some of them drop these on their way."""
    return turn.role == "system" and not turn.retold and bool(turn.content.strip())


def _joined(said: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    if any(name in said for name in _THINKING):
        ours = {name: value for name, value in ours.items() if name not in _THINKING}
    return {**ours, **said}
