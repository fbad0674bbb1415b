"""What an MLX model folder says about itself, read without loading weights."""

from pathlib import Path
from typing import Any, cast

import msgspec

from opta_lmx.backends.protocol import LoadError
from opta_lmx.backends.text.files import read_object
from opta_lmx.core.types import SamplingParams

_DEFAULT_CONTEXT = 4096
"""For the rare model that states no length."""


class ModelFolder(msgspec.Struct, frozen=True):
    """The facts of a folder. `context` is in tokens; `template` is Jinja source, None when absent.

    `sampling` holds the defaults of generation_config.json.
    """

    path: Path
    context: int
    vocabulary: int | None
    template: str | None
    sampling: SamplingParams


def read_folder(path: Path) -> ModelFolder:
    """Read config.json and its companions.

    Raises:
        LoadError: no model folder, unreadable files, or a model that wants to run its own code.
    """
    if not (path / "config.json").is_file():
        raise LoadError("the model folder has no config.json")
    config = read_object(path / "config.json")
    for key in ("auto_map", "model_file"):
        if config.get(key):
            raise LoadError(f"the model wants to run its own code ({key}), which is refused")
    tokenizer = read_object(path / "tokenizer_config.json")
    generation = read_object(path / "generation_config.json")
    text = config.get("text_config")
    levels = [config, cast("dict[str, Any]", text)] if isinstance(text, dict) else [config]
    return ModelFolder(
        path=path,
        context=_first_int(levels, "max_position_embeddings") or _DEFAULT_CONTEXT,
        vocabulary=_first_int(levels, "vocab_size"),
        template=_template(path, tokenizer),
        sampling=_sampling(generation),
    )


def _first_int(levels: list[dict[str, Any]], key: str) -> int | None:
    for level in levels:
        value = level.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _template(path: Path, tokenizer: dict[str, Any]) -> str | None:
    """The template: a file of its own wins over tokenizer_config.json, as in transformers."""
    for file in (path / "chat_template.jinja", path / "chat_template.json"):
        if file.is_file():
            try:
                source = file.read_text("utf-8")
            except (OSError, ValueError) as error:
                raise LoadError(f"{file.name} cannot be read: {error}") from error
            return (
                source
                if file.suffix == ".jinja"
                else _named(read_object(file).get("chat_template"))
            )
    return _named(tokenizer.get("chat_template"))


def _named(value: object) -> str | None:
    """A template, or the one called `default` of a list of named ones."""
    if isinstance(value, list):
        for entry in cast("list[object]", value):
            fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
            if fields.get("name") == "default":
                return _named(fields.get("template"))
    return value if isinstance(value, str) else None


def _sampling(generation: dict[str, Any]) -> SamplingParams:
    """The model's own defaults; values out of range are passed over."""
    if generation.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    top_k = generation.get("top_k")
    return SamplingParams(
        temperature=_number(generation.get("temperature"), 100.0),
        top_p=_number(generation.get("top_p"), 1.0),
        min_p=_number(generation.get("min_p"), 1.0),
        top_k=top_k if isinstance(top_k, int) and 0 <= top_k < 1 << 31 else None,
    )


def _number(value: object, most: float) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
        return float(value)
    return None
