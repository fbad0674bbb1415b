"""Decode steps that leave out what nobody reads: the normalised log-probabilities of every token.

Samplers draw alike from logits and from log-probabilities, which differ by a constant in each
row; where a caller asks for log-probabilities, its own row is normalised when it is read. On a
Linux CPU that is a tenth of a small model's step.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# (mlx-lm is untyped)

from typing import Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch  # pyright: ignore[reportMissingTypeStubs]


class Decoding(GenerationBatch):
    """mlx-lm's batch of answers; what its responses call log-probabilities are logits here."""

    def _step(self) -> tuple[list[int], list[Any]]:
        """Begin the next tokens; return the last ones, and the logits that they were drawn from."""
        given, given_from = self._next_tokens, self._next_logprobs
        self._current_tokens, self._current_logprobs = given, given_from
        logits = self.model(given[:, None], cache=self.prompt_cache)[:, -1, :]
        contexts: list[Any] = []
        processors: Any = self.logits_processors
        if any(processors):
            logits = self._processed(processors, given, logits, contexts)
        self._next_tokens = self._drawn(logits)
        self._next_logprobs = list(logits)
        mx.async_eval(self._next_tokens, self._next_logprobs, contexts)
        mx.eval(given, given_from)
        tokens: list[int] = given.tolist()
        for row, token in zip(self.tokens, tokens, strict=True):
            row.append(token)
        return tokens, given_from

    def _processed(self, by_row: Any, given: Any, logits: Any, contexts: list[Any]) -> Any:
        """Each row's logits as its processors leave them; adds the tokens that they saw."""
        rows: list[Any] = []
        for at, processors in enumerate(by_row):
            row = logits[at : at + 1]
            if processors:
                seen = self._token_context[at].update_and_fetch(given[at : at + 1])
                contexts.append(seen)
                for process in processors:
                    row = process(seen, row)
            rows.append(row)
        return mx.concatenate(rows, axis=0)

    def _drawn(self, logits: Any) -> Any:
        """A token for each row; one call does where all rows have the same sampler."""
        samplers: Any = self.samplers
        if all(sampler is samplers[0] for sampler in samplers):
            return samplers[0](logits)
        drawn = [sampler(logits[at : at + 1]) for at, sampler in enumerate(samplers)]
        return mx.concatenate(drawn, axis=0)
