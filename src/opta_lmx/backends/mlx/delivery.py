"""What mlx-lm drew, as tokens for the front: their bytes and log-probabilities."""

from collections.abc import Sequence
from typing import Any

from opta_lmx.backends.frames import TokenOut
from opta_lmx.backends.mlx.logprobs import Answer, Asked, LogprobReader
from opta_lmx.backends.mlx.rows import Row
from opta_lmx.backends.text.tokenizer import HfTokenizer


class Delivery:
    """Makes `TokenOut` of responses.

    Args:
        tokenizer: gives tokens their bytes.
    """

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self._tokenizer = tokenizer
        self._logprobs = LogprobReader(tokenizer.piece)

    def tokens(self, drawn: Sequence[tuple[Row, Any]]) -> list[TokenOut]:
        """One token per row and response, noted in the row's answer."""
        answers = self._read_logprobs(drawn)
        return [self._token(row, response, answers.get(row.id)) for row, response in drawn]

    def _token(self, row: Row, response: Any, answer: Answer | None) -> TokenOut:
        token, finish = response.token, response.finish_reason
        if finish == "stop":
            piece = b""
        elif row.answer:
            piece = self._tokenizer.piece(token)
        else:
            piece = self._tokenizer.first_piece(token)
        row.delivered(token)
        if answer is None:
            return TokenOut(row.id, token, piece, finish)
        return TokenOut(row.id, token, piece, finish, answer.logprob, answer.top)

    def _read_logprobs(self, drawn: Sequence[tuple[Row, Any]]) -> dict[int, Answer]:
        """Answers by request, for the rows that asked for log-probabilities."""
        asked: dict[int, Asked] = {}
        for row, response in drawn:
            top = row.request.top_logprobs
            if top is not None:
                own = response.logprobs if row.processor is None else row.processor.logits()
                asked[row.id] = Asked(own, response.token, top)
        if not asked:
            return {}
        return dict(zip(asked, self._logprobs.read(list(asked.values())), strict=True))
