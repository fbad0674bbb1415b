"""Tiny models that think: the tiny Llama with marks of its own and a published chat template.

Their random weights are those of the Llama, but a mark that ends thinking is likely enough to
come by itself after some words. What they say is noise; where they say it is what is tested.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.templates import template
from tests.support.tiny import VOCAB, cached, tiny_llama, write_gguf, write_json

_LIKELY, _LIKELIEST = 1.7, 3.0
"""How much larger the logits of marks are than those of words; the second ends thinking."""


class Thinker(msgspec.Struct, frozen=True):
    """One tiny model.

    Attributes:
        name: of the model.
        template: one of `support.templates`.
        marks: its marks, each a token of its own; the second ends thinking.
        control: the marks are control tokens, which ordinary tokens cannot spell.
    """

    name: str
    template: str
    marks: tuple[str, ...]
    control: bool = False

    def folder(self) -> Path:
        """For MLX."""
        return cached(f"thinker2-{self.name}", self._make)

    def gguf(self) -> Path:
        """The same weights for llama.cpp."""
        name = f"{self.name}.gguf"

        def make(out: Path) -> None:
            write_gguf(out / name, folder=self.folder(), template=template(self.template))

        return cached(f"thinker2-{self.name}-gguf", make) / name

    def _make(self, out: Path) -> None:
        llama = tiny_llama()
        ids = range(VOCAB - len(self.marks), VOCAB)
        write_json(out / "config.json", json.loads((llama / "config.json").read_text("utf-8")))
        settings = json.loads((llama / "tokenizer_config.json").read_text("utf-8"))
        settings["chat_template"] = template(self.template)
        write_json(out / "tokenizer_config.json", settings)
        words = json.loads((llama / "tokenizer.json").read_text("utf-8"))
        write_json(out / "tokenizer.json", self._marked(words))
        weights = load_file(llama / "model.safetensors")
        weights["lm_head.weight"][ids] = self._rows(weights["lm_head.weight"])
        save_file(weights, out / "model.safetensors", metadata={"format": "mlx"})

    def _marked(self, words: dict[str, Any]) -> dict[str, Any]:
        """The tokenizer with its youngest words replaced by the marks."""
        model, count = words["model"], len(self.marks)
        del model["merges"][-count:]
        oldest = sorted(model["vocab"], key=model["vocab"].__getitem__)[: VOCAB - count]
        model["vocab"] = {word: place for place, word in enumerate((*oldest, *self.marks))}
        alike = {**words["added_tokens"][0], "special": self.control}
        words["added_tokens"] += [
            {**alike, "id": model["vocab"][mark], "content": mark} for mark in self.marks
        ]
        return words

    def _rows(self, head: Any) -> Any:
        """The marks' rows of the output head, which has a row for each token."""
        likely = [_LIKELIEST if mark == self.marks[1] else _LIKELY for mark in self.marks]
        rows = np.random.default_rng(11).standard_normal((len(likely), head.shape[1]))
        scale = np.array(likely, dtype=np.float32)[:, None] * head.std()
        return rows.astype(np.float32) * scale


_THINK = ("<think>", "</think>")
THINKERS = (
    Thinker("hermes", "Qwen-Qwen3-4B-Thinking-2507", (*_THINK, "<tool_call>", "</tool_call>")),
    Thinker("coder", "Qwen3.5-4B", (*_THINK, "<tool_call>", "</tool_call>"), control=True),
)
