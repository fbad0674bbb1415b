"""Builds the body of `/completion`: every choice spelled out, so no engine default applies."""

from collections import Counter, defaultdict
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
    request: Submit,
    slot: int,
    *,
    cache_prompt: bool,
    markers: tuple[str, ...] = (),
    grammar: str = "",
    banned: tuple[int, ...] = (),
    exact_bytes: bool = False,
    drafts: bool = False,
    lora: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the JSON body that starts `request` on `slot`, after what it generated before.

    `cache_prompt` says whether what the slot already holds of this prompt may be reused;
    `markers` are control tokens whose text must appear in the answer, such as tool-call tags;
    `grammar` is the request's, written for this vocabulary; `banned` are tokens never drawn;
    `exact_bytes` is for an answer that goes on within a character, which only the listing of
    likely tokens shows as bytes; `drafts`: every event is to count what was guessed so far;
    `lora` is what each adapter of the server counts (None: it has none).
    """
    penalties = _penalties(request)
    listed = 0 if request.top_logprobs is None else max(1, request.top_logprobs)
    return {
        **_NEUTRAL,
        **_sampling(request.sampling),
        **penalties,
        "logit_bias": [*penalties["logit_bias"], *([token, False] for token in banned)],
        "grammar": grammar,
        "prompt": [*request.ids, *request.generated],
        "id_slot": slot,
        "n_predict": request.max_tokens - len(request.generated),
        "n_probs": max(listed, int(exact_bytes)),
        "cache_prompt": cache_prompt,
        "preserved_tokens": list(markers),
        "stream": True,
        "return_tokens": True,
        "return_progress": True,
        "timings_per_token": drafts,
        "response_fields": ["stop_type", "tokens_predicted", "timings"],
        **({} if lora is None else {"lora": lora}),
    }


def beginning_body(
    request: Submit,
    slot: int,
    upto: int,
    *,
    cache_prompt: bool,
    lora: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the JSON body that only processes the first `upto` tokens of `request` on `slot`.

    The rest as in `completion_body`.
    """
    return {
        **_NEUTRAL,
        "samplers": ["temperature"],
        "temperature": 0.0,
        "prompt": [*request.ids, *request.generated][:upto],
        "id_slot": slot,
        "n_predict": 0,
        "cache_prompt": cache_prompt,
        "stream": True,
        "return_progress": True,
        "response_fields": ["stop_type"],
        **({} if lora is None else {"lora": lora}),
    }


def _sampling(params: SamplingParams) -> dict[str, Any]:
    """The order is penalties, top_k, top_p, min_p, temperature; samplers left out do not run."""
    seed = _RANDOM_SEED if params.seed is None else params.seed % _RANDOM_SEED
    temperature = _or(params.temperature, 1.0)
    narrowing = ["top_k", "top_p", "min_p"] if temperature else []
    return {
        "samplers": ["penalties", *narrowing, "temperature"],
        "temperature": temperature,
        "top_k": _or(params.top_k, 0),
        "top_p": _or(params.top_p, 1.0),
        "min_p": _or(params.min_p, 0.0),
        "seed": seed,
    }


def _penalties(request: Submit) -> dict[str, Any]:
    """Penalties and biases.

    llama.cpp counts the prompt's tokens like the answer's. What frequency and presence take off
    a token for being in the prompt is given back as a bias; of presence that is all there is,
    so it never reaches a token that the prompt holds too. Tokens generated before are counted as
    the answer's by themselves.
    """
    params = request.sampling
    frequency = _or(params.frequency_penalty, 0.0)
    presence = _or(params.presence_penalty, 0.0)
    repetition = _or(params.repetition_penalty, 1.0)
    biases: defaultdict[int, float] = defaultdict(float)
    for token, bias in request.logit_bias:
        biases[token] += bias
    if not frequency and not presence and repetition == 1.0:
        return {"logit_bias": list(biases.items())}
    if frequency or presence:
        for token, count in Counter(request.ids).items():
            # The repetition penalty divides it again, as the logits of likely tokens are positive.
            biases[token] += repetition * (frequency * count + presence)
    return {
        "logit_bias": list(biases.items()),
        "repeat_last_n": len(request.ids) + request.max_tokens,
        "repeat_penalty": repetition,
        "frequency_penalty": frequency,
        "presence_penalty": presence,
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
