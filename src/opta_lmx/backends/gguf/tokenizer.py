"""The model's own tokenizer, asked over llama.cpp's socket."""

from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

from opta_lmx.backends.gguf.completion import EngineAnswerError
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.protocol import TextError


class LlamaTokenizer:
    """A `Tokenizer` (see `backends.text.texts`) on `/tokenize`."""

    def __init__(self, path: str, vocab_size: int, bos_token: str, eos_token: str) -> None:
        self._path = path
        self.vocab_size = vocab_size
        self.bos_token = bos_token
        self.eos_token = eos_token

    def encode(self, text: str, add_special: bool) -> list[int]:
        """Return token ids; special tokens written out in the text are read as such.

        Raises:
            TextError: llama.cpp cannot tokenize it.
        """
        payload = {"content": text, "add_special": add_special, "parse_special": True}
        return self._call("/tokenize", payload)["tokens"]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones written out.

        Raises:
            TextError: llama.cpp cannot tell it.
        """
        return self._call("/detokenize", {"tokens": [*ids]})["content"]

    def _call(self, route: str, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return call(self._path, route, payload)
        except (EngineAnswerError, OSError, HTTPException, UnicodeError) as error:
            raise TextError(f"the text cannot be tokenized: {error}") from error
