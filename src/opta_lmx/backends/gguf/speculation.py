"""Speculative decoding with a draft model: llama.cpp's server runs it, this sets it up and checks.

The draft model guesses some tokens, the model computes all of them in one batch and draws its own
token at each place as it always does; a guess counts only where it is that very token. So the
answer is the model's, whatever the sampling, and the guesses cost or save time only.
"""

from pathlib import Path
from typing import Any, cast

import msgspec

from opta_lmx.backends.frames import Load
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.gguf.plan import GgufOptions, Plan, least_batch
from opta_lmx.backends.protocol import LoadError
from opta_lmx.core.errors import LmxError
from opta_lmx.models.description import ModelInfo, with_draft
from opta_lmx.models.gguf_header import read_gguf_header
from opta_lmx.models.gguf_info import read_gguf_info

LACKS = ("logprobs",)
"""llama.cpp keeps no probabilities of tokens that were guessed."""

_KIND = "tokenizer.ggml.model"
_TOKENS = "tokenizer.ggml.tokens"
_MARKS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
_FREE_IDS = 5
"""The first ids are special tokens, which relatives of one family spell differently."""
_MOST_PADDING = 128


class _Tokens(msgspec.Struct, frozen=True):
    kind: str
    texts: list[str]
    marks: tuple[object, ...]


def read_with_draft(spec: Load, options: GgufOptions, info: ModelInfo) -> ModelInfo:
    """Check the draft model of `spec`, if it has one, and add it to `info`.

    Raises:
        LoadError: `draft_refused`; it cannot be read, is of another vocabulary, or the batch is
            too small.
    """
    if not spec.draft:
        return info
    draft = _info(Path(spec.draft))
    if draft.kind != "chat":
        raise _refused("it makes vectors, not text")
    if reason := mismatch(Path(spec.path), Path(spec.draft)):
        raise _refused(reason)
    if options.batch and options.batch < least_batch(spec):
        raise _refused(
            f"{spec.slots} slots with {spec.draft_tokens} guesses each need a `batch` of "
            f"{least_batch(spec)} at least, not {options.batch}"
        )
    return with_draft(info, draft)


def mismatch(model: Path, draft: Path) -> str:
    """Why two files do not share a vocabulary; empty when they do.

    One may be padded with tokens that the other lacks, as the sizes of one family are.
    """
    if model == draft:
        return ""
    ours, theirs = _read(model), _read(draft)
    if ours.kind != theirs.kind:
        return f"its tokenizer is '{theirs.kind}', the model's is '{ours.kind}'"
    if ours.marks != theirs.marks:
        return "its tokens for the begin and the end of a text are not the model's"
    sizes = len(ours.texts), len(theirs.texts)
    if abs(sizes[0] - sizes[1]) > _MOST_PADDING:
        return f"its vocabulary has {sizes[1]} tokens, the model's has {sizes[0]}"
    pairs = enumerate(zip(ours.texts, theirs.texts, strict=False))
    for token, (one, other) in pairs:
        if one != other and token >= _FREE_IDS:
            return f"token {token} of its vocabulary is {other!r}, of the model's {one!r}"
    return ""


def cache_type(xllamacpp: Any, options: GgufOptions) -> Any:
    """llama.cpp's name for how keys and values are held."""
    return getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.kv_type.upper()}")


def set_draft(xllamacpp: Any, params: Any, plan: Plan, options: GgufOptions) -> None:
    """Tell llama.cpp's parameters of the plan's draft model."""
    params.speculative.types = [
        xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE
    ]
    draft = params.speculative.draft
    draft.mparams.path = plan.draft
    draft.n_max, draft.n_min = plan.draft_tokens, 0
    draft.n_gpu_layers = options.gpu_layers
    draft.cache_type_k = draft.cache_type_v = cache_type(xllamacpp, options)
    draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = plan.threads


def check_running(socket: str) -> None:
    """Raise LoadError unless llama.cpp drafts: where it cannot, it goes on without a word."""
    if not all(slot.get("speculative") for slot in call(socket, "/slots")):
        raise _refused("llama.cpp does not take it for this model")


def _info(path: Path) -> ModelInfo:
    try:
        return read_gguf_info(path)
    except LmxError as error:
        raise _refused(error.message) from error


def _read(path: Path) -> _Tokens:
    metadata = read_gguf_header(path, keep=(_TOKENS,)).metadata
    return _Tokens(
        str(metadata.get(_KIND, "")),
        cast("list[str]", metadata.get(_TOKENS, [])),
        tuple(metadata.get(mark) for mark in _MARKS),
    )


def _refused(reason: str) -> LoadError:
    return LoadError(f"its draft model cannot be used: {reason}", "draft_refused")
