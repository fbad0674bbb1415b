"""Which requests cannot run, judged before they touch the batch. Pure."""

import math

import msgspec

from opta_lmx.backends.frames import Submit
from opta_lmx.core.types import SamplingParams


class Limits(msgspec.Struct, frozen=True):
    """What requests may ask: token ids below `vocabulary`, `context` tokens, `slots` at once.

    `adapters` are the names of those that are loaded.
    """

    vocabulary: int
    context: int
    slots: int
    adapters: tuple[str, ...] = ()


def refusal(request: Submit, limits: Limits) -> str:
    """Why a request cannot run; empty when it can."""
    if not request.ids:
        return "the prompt is empty"
    if request.adapter and request.adapter not in limits.adapters:
        return f"no adapter '{request.adapter}' is loaded"
    ids = (*request.ids, *request.generated)
    if len(ids) >= limits.context:
        return f"the prompt of {len(ids)} tokens leaves no room in {limits.context}"
    if min(ids) < 0 or max(ids) >= limits.vocabulary:
        return f"a token id is outside the vocabulary of {limits.vocabulary}"
    if request.max_tokens < 1:
        return "max_tokens must be at least 1"
    if len(request.generated) >= request.max_tokens:
        return f"max_tokens is {request.max_tokens}, and they were generated before"
    judged = bias_refusal(request, limits.vocabulary) or _sampling(request.sampling)
    return judged or _caching(request)


def bias_refusal(request: Submit, vocabulary: int) -> str:
    """What is wrong with a request's biases; empty when nothing is."""
    for token, bias in request.logit_bias:
        if not 0 <= token < vocabulary:
            return f"logit_bias: token id {token} is outside the vocabulary of {vocabulary}"
        if not math.isfinite(bias):
            return "logit_bias: a bias is not a finite number"
    return ""


def _caching(request: Submit) -> str:
    handles = [keep.handle for keep in request.keep]
    if request.keep_end:
        handles.append(request.keep_end)
    if len(set(handles)) < len(handles) or min(handles, default=1) < 1:
        return "handles to keep something under are positive and differ"
    if any(keep.tokens < 1 for keep in request.keep):
        return "a checkpoint covers at least one token"
    return ""


def _sampling(sampling: SamplingParams) -> str:
    positive = (sampling.temperature, sampling.top_p, sampling.min_p)
    if not all(number is None or (math.isfinite(number) and number >= 0) for number in positive):
        return "a sampling parameter is not a finite number of at least 0"
    penalties = (sampling.frequency_penalty, sampling.presence_penalty)
    if not all(number is None or math.isfinite(number) for number in penalties):
        return "a penalty is not a finite number"
    repetition = sampling.repetition_penalty
    if repetition is not None and not (math.isfinite(repetition) and repetition > 0):
        return "repetition_penalty is not a finite number above 0"
    return ""
