"""Opens one GGUF model: checks its header, plans, starts llama.cpp and builds its `Texts`."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from opta_lmx.backends.frames import Load, Ready
from opta_lmx.backends.gguf.adapters import Adapters, adapters_digest, check_adapters, refused
from opta_lmx.backends.gguf.canary import try_once
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.gguf.machine import this_machine
from opta_lmx.backends.gguf.plan import GgufOptions, Plan, make_plan
from opta_lmx.backends.gguf.server import SLOTS, gpu_memory, start_server
from opta_lmx.backends.gguf.slotfiles import SlotFiles, claim, model_identity
from opta_lmx.backends.gguf.speculation import LACKS, check_running, read_with_draft
from opta_lmx.backends.gguf.tokenizer import LlamaTokenizer
from opta_lmx.backends.gguf.vocabulary import (
    Vocabulary,
    follows_grammars,
    read_vocabulary,
)
from opta_lmx.backends.protocol import CANARY_FAILED, LoadError, Texts
from opta_lmx.backends.text.infill import find_infill
from opta_lmx.backends.text.template import load_template
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.codec.tools.dialects import markers_of
from opta_lmx.core.errors import LmxError
from opta_lmx.core.kv_cost import KvCost
from opta_lmx.models.gguf_header import read_gguf_header
from opta_lmx.models.gguf_info import read_gguf_info

_TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_KIND = "tokenizer.ggml.model"
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"


class OpenModel(msgspec.Struct, frozen=True):
    """A model being served.

    `socket` is llama.cpp's; `words` its incomplete pieces; `vocabulary` the number of tokens;
    `ends` those that end an answer, of which llama.cpp's grammars know one by themselves;
    `files` where its slots are kept; `adapters` those it was loaded with.
    """

    socket: str
    vocabulary: int
    ends: tuple[int, ...]
    plan: Plan
    options: GgufOptions
    words: Vocabulary
    ready: Ready
    texts: Texts
    files: SlotFiles
    adapters: Adapters


def open_model(spec: Load) -> OpenModel:
    """Load the model named by `spec`.

    Raises:
        LoadError: the options, the file, its template or llama.cpp say no; the message says why.
    """
    try:
        options = msgspec.convert(spec.options, GgufOptions)
        info = read_gguf_info(Path(spec.path))
        ids, words, lacks, ends = _read_words(Path(spec.path))
        both = read_with_draft(spec, options, info)
        adapter_bytes = check_adapters(spec)
    except msgspec.ValidationError as error:
        raise LoadError(f"the options of the gguf backend are wrong: {error}") from error
    except LmxError as error:
        raise LoadError(error.message) from error
    if info.embedding:
        raise LoadError("this model makes vectors, not text")
    plan = make_plan(both, spec, options, this_machine(gpu_memory()))
    runtime = spec.runtime_dir or tempfile.mkdtemp(prefix="lmx-")
    folder, lasting = _slot_folder(spec.path, runtime, options)
    socket, engine = start_server(spec.path, runtime, plan, options, folder)
    if plan.draft:
        check_running(socket)
    adapters = Adapters(tuple(spec.adapters))
    _try_all(socket, info.vocabulary, adapters)
    props: dict[str, Any] = call(socket, "/props")
    bos, eos = str(props["bos_token"]), str(props["eos_token"])
    template = load_template(
        spec, info.chat_template, ids.__contains__, bos_token=bos, eos_token=eos
    )
    words.keep(markers_of(template.speech))
    ready = Ready(
        context=min(plan.context, _window(props) - bool(plan.draft)),
        slots=plan.slots,
        kv_bytes=plan.cells * plan.cell_bytes,
        weights_bytes=both.weights_bytes + adapter_bytes,
        speech=template.speech,
        template_source=template.source_kind,
        sampling=info.sampling,
        engine=engine,
        vocabulary=info.vocabulary,
        lacks=(*lacks, *LACKS) if plan.draft else lacks,
        resumes="unseeded",
        pauses=True,
        kv=KvCost(((plan.cell_bytes, 0),), whole=True),
    )
    tokenizer = LlamaTokenizer(socket, info.vocabulary, bos, eos)
    texts = TemplateTexts(template, tokenizer, find_infill(ids.get), ready.context)
    held = "" if options.kv_type == "f16" else f" {options.kv_type}"
    settings = f"{engine} {plan.whole_windows}{held}{adapters_digest(spec)}"
    identity = model_identity(Path(spec.path), settings)
    files = SlotFiles(socket, folder, identity, lasting=lasting, drafts=bool(plan.draft))
    return OpenModel(
        socket, info.vocabulary, ends, plan, options, words, ready, texts, files, adapters
    )


def _try_all(socket: str, vocabulary: int, adapters: Adapters) -> None:
    """Try the model with each adapter, and at last as it is."""
    for name in adapters.names:
        try:
            try_once(socket, vocabulary, adapters.chosen(name))
        except LoadError as error:
            if error.code != CANARY_FAILED:
                raise
            raise refused(name, str(error)) from error
    try_once(socket, vocabulary, adapters.chosen(""))


def _window(props: dict[str, Any]) -> int:
    """Tokens of a slot. With a draft model an answer ends too early where it would fill them."""
    return int(props["default_generation_settings"]["n_ctx"])


def _slot_folder(model: str, runtime: str, options: GgufOptions) -> tuple[Path, bool]:
    """Where files of slots go, and whether they are to stay."""
    if options.slot_dir:
        lasting = Path(options.slot_dir) / model_identity(Path(model), "")[:16]
        if claim(lasting):
            return lasting, True
    folder = Path(runtime) / "llama" / f"{os.getpid()}{SLOTS}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"the folder for slots cannot be used: {error}") from error
    return folder, False


class _Words(NamedTuple):
    """The vocabulary's ids by text, and what the stream reader needs of it."""

    ids: dict[str, int]
    reader: Vocabulary
    lacks: tuple[str, ...]
    ends: tuple[int, ...]


def _read_words(path: Path) -> _Words:
    metadata = read_gguf_header(path, keep=(_TOKENS, _TYPES)).metadata
    tokens = cast("list[str]", metadata.get(_TOKENS, []))
    types = cast("list[int]", metadata.get(_TYPES, []))
    kind = str(metadata.get(_KIND, ""))
    words = read_vocabulary(kind, tokens, types)
    space_prefix = cast("bool | None", metadata.get(_SPACE_PREFIX))
    lacks = () if follows_grammars(kind, space_prefix) else ("grammar",)
    named = (metadata.get(key) for key in _ENDS)
    ends = {token for token in named if isinstance(token, int) and 0 <= token < len(tokens)}
    ids = {text: token for token, text in enumerate(tokens)}
    return _Words(ids, words, lacks, tuple(sorted(ends)))
