"""Texts and pairs to the token ids an encoder takes, special tokens included."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (the `tokenizers` stubs leave many parameters bare)

from typing import Any

from tokenizers import Encoding, Tokenizer

from opta_lmx.backends.embedding.encoder import Encoded, Input, InputError, Pair
from opta_lmx.backends.embedding.slices import slices
from opta_lmx.backends.mlx.embedding.folder import EncoderFolder
from opta_lmx.backends.protocol import LoadError


class EncoderTokens:
    """The folder's own tokenizer, without the cuts and padding its file may ask for.

    Args:
        folder: where tokenizer.json is.
        window: tokens one input may have.

    Raises:
        LoadError: there is none, or it cannot be read.
    """

    def __init__(self, folder: EncoderFolder, window: int) -> None:
        try:
            tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
        except Exception as error:
            raise LoadError(f"tokenizer.json cannot be loaded: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prompt = folder.prompt
        self._vocabulary = folder.shape.vocabulary
        self._window = window
        self._extra = tokenizer.num_special_tokens_to_add(False)
        self._extra_pair = tokenizer.num_special_tokens_to_add(True)
        self._last_query: tuple[str, tuple[Any, bool]] | None = None

    def read(self, value: Input, cut_to: int | None) -> Encoded:
        """Tokenize one input, cutting it as `frames.Embed` says.

        Raises:
            InputError: text that is no Unicode, ids out of range, an empty input.
        """
        if isinstance(value, Pair):
            return self._pair(value, cut_to)
        if isinstance(value, tuple):
            return self._ids(value, cut_to)
        found, exact = self._encode(self._prompt + value)
        if cut_to is not None:
            found.truncate(max(1, min(cut_to, self._window) - self._extra))
        return self._encoded(self._tokenizer.post_process(found).ids, exact=exact)

    def _ids(self, ids: tuple[int, ...], cut_to: int | None) -> Encoded:
        if any(not 0 <= token < self._vocabulary for token in ids):
            raise InputError(f"token ids of this model are 0 to {self._vocabulary - 1}")
        return self._encoded(list(ids if cut_to is None else ids[: min(cut_to, self._window)]))

    def _pair(self, pair: Pair, cut_to: int | None) -> Encoded:
        query, whole_query = self._query(pair.query)
        document, whole_document = self._encode(pair.document)
        if cut_to is not None:
            room = max(0, self._window - self._extra_pair - len(query.ids))
            document.truncate(min(cut_to, room))
        joined = self._tokenizer.post_process(query, document)
        marks = joined.sequence_ids
        second = next((place for place, mark in enumerate(marks) if mark == 1), len(joined.ids))
        return self._encoded(joined.ids, second, exact=whole_query and whole_document)

    def _query(self, text: str) -> tuple[Any, bool]:
        """As `_encode`, once for the many documents that follow each other with one query."""
        if self._last_query is None or self._last_query[0] != text:
            self._last_query = (text, self._encode(text))
        return self._last_query[1]

    def _encode(self, text: str) -> tuple[Any, bool]:
        """The tokens of a text, and whether it was read to its end.

        The special ones are not among them: they come after it is cut.
        """
        parts: list[Any] = []
        for piece in slices(text):
            if sum(len(part.ids) for part in parts) > self._window:
                return Encoding.merge(parts, True), False
            parts.append(self._encode_piece(piece))
        return Encoding.merge(parts, True) if len(parts) > 1 else parts[0], True

    def _encode_piece(self, text: str) -> Any:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError("the text holds characters that are not valid Unicode") from error

    def _encoded(self, ids: list[int], second: int = 0, *, exact: bool = True) -> Encoded:
        if not ids:
            raise InputError("it is empty")
        if max(ids) >= self._vocabulary:
            raise InputError("the tokenizer knows tokens that the weights do not")
        return Encoded(len(ids), tuple(ids), second, exact=exact)
