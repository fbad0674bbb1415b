"""Prompts as a fleet of OpenClaw bots sends them, as token ids: sizes and habits were recorded.

System text and tools are long and the same for all; a request ends with a short volatile message
that is merged into the user's and not kept in history; history grows. In two of three dialects
the conversation's name stands near the end of the system text.
"""

import random
from typing import Literal

Dialect = Literal["completions", "responses", "messages"]
SYSTEM = 12_000
_NAME_BEFORE_END = {"responses": 125, "messages": 125}
_VOLATILE_BLOCK = 1_200
"""Tokens before the end of the system text at which one dialect's second block begins."""
_HEADER = (1, 2, 3)


class Bot:
    """One conversation. `prompt` gives ids and cuts; `answer` is then kept in history."""

    def __init__(self, name: int, dialect: Dialect, seed: int, system: int = SYSTEM) -> None:
        self._random = random.Random(f"{seed}/{name}")
        shared = random.Random(seed)
        self._system = [shared.randrange(10, 50_000) for _ in range(system)]
        own = [self._random.randrange(10, 50_000) for _ in range(12)]
        before = _NAME_BEFORE_END.get(dialect)
        if before is not None:
            if dialect == "messages":
                # The second block starts with a name of the run's own place too.
                before = _VOLATILE_BLOCK
            self._system[-before : -before + len(own)] = own
        self._turns: list[list[int]] = []
        self.name = f"bot-{name}"
        self._relocated = own if before is None else []

    def ask(self, length: int) -> None:
        """The user says `length` tokens; the first time the conversation's name goes before."""
        first = self._relocated if not self._turns else []
        self._turns.append([*_HEADER, *first, *self._words(length)])

    def answer(self, length: int) -> list[int]:
        """The model's words, kept in history."""
        words = self._words(length)
        self._turns.append([*_HEADER, *words])
        return words

    def prompt(self) -> tuple[list[int], list[int]]:
        """The next request's token ids and the offsets at which turns start."""
        ids, cuts = list(self._system), []
        for turn in self._turns:
            cuts.append(len(ids))
            ids += turn
        # The carrier is merged into the last turn: no cut is known before it.
        ids += self._words(self._random.randrange(68, 76))
        cuts.append(len(ids))
        ids += _HEADER
        return ids, cuts

    def _words(self, count: int) -> list[int]:
        return [self._random.randrange(10, 50_000) for _ in range(count)]
