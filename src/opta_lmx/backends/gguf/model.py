"""Opens one GGUF model: checks its header, plans, starts llama.cpp and builds its `Texts`."""

from pathlib import Path
from typing import Any, cast

import msgspec

from opta_lmx.backends.frames import Load, Ready
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.gguf.machine import this_machine
from opta_lmx.backends.gguf.plan import GgufOptions, Plan, make_plan
from opta_lmx.backends.gguf.server import gpu_memory, start_server
from opta_lmx.backends.gguf.tokenizer import LlamaTokenizer
from opta_lmx.backends.gguf.vocabulary import Vocabulary, read_vocabulary
from opta_lmx.backends.protocol import LoadError, Texts
from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.core.errors import LmxError
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.gguf_header import read_gguf_header
from opta_lmx.models.gguf_info import read_gguf_info

_TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_KIND = "tokenizer.ggml.model"


class OpenModel(msgspec.Struct, frozen=True):
    """A model being served: `socket` is llama.cpp's; `words` its incomplete pieces."""

    socket: str
    plan: Plan
    options: GgufOptions
    words: Vocabulary
    ready: Ready
    texts: Texts


def open_model(spec: Load) -> OpenModel:
    """Load the model named by `spec`.

    Raises:
        LoadError: the options, the file, its template or llama.cpp say no; the message says why.
    """
    try:
        options = msgspec.convert(spec.options, GgufOptions)
        info = read_gguf_info(Path(spec.path))
        tokens, words = _read_words(Path(spec.path))
    except msgspec.ValidationError as error:
        raise LoadError(f"the options of the gguf backend are wrong: {error}") from error
    except LmxError as error:
        raise LoadError(error.message) from error
    if info.embedding:
        raise LoadError("this model makes vectors, not text")
    plan = make_plan(info, spec, options, this_machine(gpu_memory()))
    socket, engine = start_server(spec.path, spec.runtime_dir, plan, options)
    props: dict[str, Any] = call(socket, "/props")
    bos, eos = str(props["bos_token"]), str(props["eos_token"])
    template = _template(spec, info, bos, eos, tokens)
    ready = Ready(
        context=min(plan.context, int(props["default_generation_settings"]["n_ctx"])),
        slots=plan.slots,
        kv_bytes=plan.cells * plan.cell_bytes,
        weights_bytes=info.weights_bytes,
        tool_dialect=template.tool_dialect,
        template_source=template.source_kind,
        supports_tools=template.supports_tools,
        sampling=info.sampling,
        engine=engine,
    )
    texts = TemplateTexts(template, LlamaTokenizer(socket, info.vocabulary, bos, eos))
    return OpenModel(socket, plan, options, words, ready, texts)


def _read_words(path: Path) -> tuple[frozenset[str], Vocabulary]:
    """The vocabulary's texts, and what the stream reader needs of them."""
    metadata = read_gguf_header(path, keep=(_TOKENS, _TYPES)).metadata
    tokens = cast("list[str]", metadata.get(_TOKENS, []))
    types = cast("list[int]", metadata.get(_TYPES, []))
    words = read_vocabulary(str(metadata.get(_KIND, "")), tokens, types)
    return frozenset(token for token in tokens if token.startswith("<")), words


def _template(
    spec: Load, info: ModelInfo, bos: str, eos: str, tokens: frozenset[str]
) -> ChatTemplate:
    try:
        return ChatTemplate.from_source(
            spec.template or info.chat_template,
            bos_token=bos,
            eos_token=eos,
            source_kind="config" if spec.template else "model",
            has_token=tokens.__contains__,
        )
    except ValueError as error:
        raise LoadError(str(error)) from error
