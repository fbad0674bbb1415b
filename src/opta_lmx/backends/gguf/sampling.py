"""Builds the body of `/completion`: every choice spelled out, so no engine default applies."""

from typing import Any

from opta_lmx.backends.frames import Submit
from opta_lmx.core.types import SamplingParams

_RANDOM_SEED = 0xFFFFFFFF
"""The seed by which llama.cpp means "draw one"."""

_NEUTRAL: dict[str, Any] = {
    "dynatemp_range": 0.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "repeat_last_n": 0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "mirostat": 0,
    "adaptive_target": -1.0,
    "min_keep": 0,
    "n_keep": 0,
    "ignore_eos": False,
    "logit_bias": [],
    "stop": [],
}


def completion_body(
    request: Submit, slot: int, *, cache_prompt: bool, markers: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the JSON body that starts `request` on `slot`.

    `cache_prompt` says whether what the slot already holds of this prompt may be reused;
    `markers` are control tokens whose text must appear in the answer, such as tool-call tags.
    """
    return {
        **_NEUTRAL,
        **_sampling(request.sampling),
        "prompt": list(request.ids),
        "id_slot": slot,
        "n_predict": request.max_tokens,
        "n_probs": 0 if request.top_logprobs is None else max(1, request.top_logprobs),
        "cache_prompt": cache_prompt,
        "preserved_tokens": list(markers),
        "stream": True,
        "return_tokens": True,
        "return_progress": True,
        "response_fields": ["stop_type", "tokens_predicted", "timings"],
    }


def _sampling(params: SamplingParams) -> dict[str, Any]:
    """The order is top_k, top_p, min_p, then temperature; samplers left out do not run."""
    seed = _RANDOM_SEED if params.seed is None else params.seed % _RANDOM_SEED
    temperature = _or(params.temperature, 1.0)
    return {
        "samplers": ["top_k", "top_p", "min_p", "temperature"] if temperature else ["temperature"],
        "temperature": temperature,
        "top_k": _or(params.top_k, 0),
        "top_p": _or(params.top_p, 1.0),
        "min_p": _or(params.min_p, 0.0),
        "seed": seed,
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
