"""Ollama's chat, generate and embed, field by field."""

from typing import Any

from tests.contract.matrix import common
from tests.contract.matrix.model import (
    Row,
    Status,
    Surface,
    by_model,
    nested,
    refused,
    supported,
    with_parts,
)

USER: dict[str, Any] = {"role": "user", "content": "hi"}
BRIEF: dict[str, Any] = {"num_predict": 2}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL: dict[str, Any] = {"function": {"name": "weather", "arguments": {"city": "a"}}}


def _option(name: str, value: object, status: Status, meaning: str) -> Row:
    options = {name: value} if name == "num_predict" else {**BRIEF, name: value}
    return nested(f"options.{name}", status, meaning, options=options)


def _loading(name: str, value: object) -> Row:
    return _option(name, value, "refused", "How models are loaded is the operator's to configure.")


OPTIONS: tuple[Row, ...] = (
    supported("options", BRIEF, "How to generate; absent: the model's own defaults."),
    _option("num_predict", 2, "supported", "Bound on generated tokens; below 1: the window."),
    _option("num_ctx", 64, "supported", "Refused where the model's window is smaller."),
    _option("temperature", 0.5, "supported", "0 is greedy."),
    _option("top_k", 40, "supported", "Below 1 means all."),
    _option("top_p", 0.9, "supported", "Above 0 to 1."),
    _option("min_p", 0.1, "supported", "0 to 1."),
    _option("seed", 7, "supported", "-1: a new one for each call."),
    _option("stop", ["x"], "supported", "A string or up to 16."),
    _option("repeat_penalty", 1.1, "supported", "Above 0, 1 means none."),
    _option("repeat_last_n", -1, "supported", "-1 or 0, where a penalty is asked for."),
    _option("frequency_penalty", 0.5, "supported", "-2 to 2."),
    _option("presence_penalty", 0.5, "supported", "-2 to 2."),
    _option("num_keep", 4, "accepted", "Prompts are never cut, so all of them is kept."),
    _option("typical_p", 0.5, "refused", "Only 1."),
    _option("tfs_z", 0.5, "refused", "Only 1."),
    _option("mirostat", 1, "refused", "Only 0."),
    _option("mirostat_tau", 5.0, "refused", "There is no Mirostat here."),
    _option("mirostat_eta", 0.1, "refused", "There is no Mirostat here."),
    _option("penalize_newline", False, "refused", "Only true: line ends are as other text."),
    _loading("numa", True),
    _loading("num_batch", 8),
    _loading("num_gpu", 1),
    _loading("main_gpu", 0),
    _loading("low_vram", True),
    _loading("f16_kv", False),
    _loading("logits_all", True),
    _loading("vocab_only", True),
    _loading("use_mmap", True),
    _loading("use_mlock", True),
    _loading("embedding_only", True),
    _loading("num_thread", 1),
)

COMMON: tuple[Row, ...] = (
    supported("stream", True, "JSON lines; true unless said."),
    supported("format", "json", "`json`, or a JSON Schema: enforced."),
    supported("think", False, "To the template; true or a level: 400 for a model that cannot."),
    supported("logprobs", True, "Of the visible text's tokens."),
    nested("top_logprobs", "supported", "0 to 20.", logprobs=True, top_logprobs=3),
    supported(
        "keep_alive",
        "5m",
        "How long the model may be idle; below 0: for good; 0 with nothing to answer unloads.",
    ),
    refused("truncate", True, "Only false: what is too long is refused with its length."),
    refused("shift", True, "Only false: an answer ends at the window."),
    *OPTIONS,
)

CHAT = Surface(
    name="Ollama chat",
    path="/api/chat",
    least={"messages": [USER], "options": BRIEF, "stream": False},
    rows=(
        supported("messages", [USER], "None at all loads the model."),
        nested("messages.role", "supported", "Four roles.", messages=[USER]),
        nested("messages.content", "supported", "Text.", messages=[USER]),
        nested(
            "messages.thinking",
            "supported",
            "Earlier thinking, for templates that want it back.",
            messages=[USER, {"role": "assistant", "content": "x", "thinking": "hm"}, USER],
        ),
        with_parts(
            nested(
                "messages.tool_calls",
                "supported",
                "Calls made before.",
                messages=[USER, {"role": "assistant", "tool_calls": [CALL]}, USER],
            ),
            *("function", "function.name", "function.arguments"),
        ),
        nested(
            "messages.tool_name",
            "supported",
            "Whose result this is.",
            messages=[
                USER,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "sun", "tool_name": "weather"},
            ],
        ),
        nested(
            "messages.images",
            "refused",
            common.PICTURES,
            messages=[{**USER, "images": ["aGk="]}],
        ),
        with_parts(
            supported("tools", [WEATHER], "Functions, up to 128."),
            *("type", "function", "function.name", "function.description"),
            *("function.parameters", "function.parameters.type", "function.parameters.$defs"),
            *("function.parameters.items", "function.parameters.properties"),
            "function.parameters.required",
        ),
        *COMMON,
    ),
    sdk="ollama._types:ChatRequest",
    watch="`tests/contract/test_sdk_fields.py` (ollama client)",
)

GENERATE = Surface(
    name="Ollama generate",
    path="/api/generate",
    least={"prompt": "hi", "options": BRIEF, "stream": False},
    rows=(
        supported("prompt", "hi", "None at all loads the model."),
        by_model("suffix", "b", "Fill-in-the-middle, where the vocabulary has marks for it."),
        supported("system", "Be brief.", "A system turn; not with `raw`."),
        supported("raw", True, "The prompt as it stands, without the template."),
        refused("template", "{{ .Prompt }}", "Templates are the model's own."),
        refused("context", [1, 2], "Answers carry none: use chat for a conversation."),
        refused("images", ["aGk="], common.PICTURES),
        refused("width", 64, "No pictures are made."),
        refused("height", 64, "No pictures are made."),
        refused("steps", 4, "No pictures are made."),
        *COMMON,
    ),
    sdk="ollama._types:GenerateRequest",
    watch="`tests/contract/test_sdk_fields.py` (ollama client)",
)

EMBED = Surface(
    name="Ollama embed",
    path="/api/embed",
    least={"input": "hello"},
    rows=(
        supported("input", ["a", "b"], "Up to 2048 texts."),
        supported("truncate", False, "False: what is too long is refused; else its end is cut."),
        by_model("dimensions", 8, "The model's own width, or less where it was made to be cut."),
        supported("keep_alive", "5m", "How long the model may be idle; below 0: for good."),
        supported("options", {}, "Only `num_ctx` has a meaning for vectors."),
        nested("options.num_ctx", "supported", "Texts are cut here.", options={"num_ctx": 8}),
        nested("options.seed", "refused", "Nothing is drawn.", options={"seed": 1}),
    ),
    sdk="ollama._types:EmbedRequest",
    watch="`tests/contract/test_sdk_fields.py` (ollama client)",
    kind="embedding",
)

EMBEDDINGS = Surface(
    name="Ollama embeddings (older)",
    path="/api/embeddings",
    least={"prompt": "hello"},
    rows=(
        supported("prompt", "a", "One text; its end is cut where it is too long."),
        supported("keep_alive", "5m", "How long the model may be idle; below 0: for good."),
        supported("options", {}, "Only `num_ctx` has a meaning for vectors."),
        nested("options.num_ctx", "supported", "The text is cut here.", options={"num_ctx": 8}),
    ),
    sdk="ollama._types:EmbeddingsRequest",
    watch="`tests/contract/test_sdk_fields.py` (ollama client)",
    kind="embedding",
)
