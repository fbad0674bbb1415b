"""Reproducible prompts of a wanted token length for a model whose tokenizer is not known here."""

import random

import msgspec

from benchmarks.client import Messages, Target, stream_chat

_LIST = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law car
city community name president team minute idea body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education
"""
WORDS = tuple(_LIST.split())


class Cost(msgspec.Struct, frozen=True):
    """Prompt tokens as a straight line over words: a fixed part (template) and one per word."""

    fixed: float
    per_word: float

    def words(self, tokens: int) -> int:
        """How many words make a prompt of about `tokens` tokens (at least one)."""
        return max(1, round((tokens - self.fixed) / self.per_word))


class PromptMaker:
    """Makes prompts from a seed: the same seed and index always give the same prompt.

    `words` is the length of the part of its own, `shared_words` that of a system turn which all
    prompts of one maker have in common.
    """

    def __init__(self, seed: str, words: int, shared_words: int = 0) -> None:
        self._seed = seed
        self._words = words
        self._shared = _text(f"{seed}/shared", shared_words)

    def make(self, index: int) -> Messages:
        """The prompt of that index."""
        return Messages(user=_text(f"{self._seed}/{index}", self._words), system=self._shared)


def _text(seed: str, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


class CalibrationError(Exception):
    """The endpoint did not answer the probes, or reports no prompt tokens."""


def fit(few: tuple[int, int], many: tuple[int, int]) -> Cost:
    """The line through two (words, tokens) measurements.

    Raises:
        CalibrationError: more words did not give more tokens.
    """
    (words_a, tokens_a), (words_b, tokens_b) = few, many
    if tokens_b <= tokens_a or tokens_a <= 0:
        raise CalibrationError("the endpoint's usage does not count prompt tokens")
    per_word = (tokens_b - tokens_a) / (words_b - words_a)
    return Cost(tokens_a - per_word * words_a, per_word)


async def calibrate(target: Target, timeout_s: float = 120.0) -> Cost:
    """Measure the endpoint's tokens per word by two short requests.

    Raises:
        CalibrationError: a probe failed.
    """
    points: list[tuple[int, int]] = []
    for words in (8, 200):
        messages = Messages(user=_text("calibrate", words))
        record = await stream_chat(target, messages, 1, timeout_s=timeout_s)
        if record.error is not None:
            raise CalibrationError(f"{target.url}: {record.error} {record.detail}".strip())
        points.append((words, record.prompt_tokens))
    return fit(points[0], points[1])
