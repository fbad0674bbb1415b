"""Compiled grammars are shared by answers that ask for the same, each following its own."""

import threading
from typing import Any

import pytest

from opta_lmx.backends.mlx.grammar import Compiled, Follower, Grammars
from opta_lmx.backends.text.tokenizer import HfTokenizer
from tests.support.constrained import json_grammar
from tests.support.tiny import VOCAB, tiny_llama

ENUM: dict[str, Any] = {"enum": ["ab", "cd"]}


class Counting(Grammars):
    """Counts what is compiled."""

    compiled = 0

    def compile(self, grammar: str) -> Any:
        self.compiled += 1
        return super().compile(grammar)


@pytest.fixture(scope="module")
def tokenizer() -> HfTokenizer:
    return HfTokenizer.from_folder(tiny_llama())


def made(grammars: Grammars, *texts: str) -> list[Compiled]:
    for number, text in enumerate(texts):
        grammars.ask(number, text)
    ready: list[Compiled] = []
    while len(ready) < len(texts):
        more = grammars.take(10)
        assert more, "nothing was compiled"
        ready += more
    return ready


def test_one_grammar_is_compiled_once_and_followed_by_each_alone(tokenizer: HfTokenizer) -> None:
    grammars = Counting(tokenizer, VOCAB)
    one, other = made(grammars, *[json_grammar(ENUM)] * 2)
    assert grammars.compiled == 1
    first, second = (Follower(each.matcher, VOCAB, [2]) for each in (one, other))
    untouched = first.allowed().copy()
    for token in tokenizer.encode('"ab"', add_special=False):
        first.take(token)
    assert (first.allowed() != untouched).any()
    assert (second.allowed() == untouched).all()
    second.take(tokenizer.encode('"cd"', add_special=False)[0])


def test_old_grammars_are_forgotten_and_bad_ones_never_kept(tokenizer: HfTokenizer) -> None:
    grammars = Counting(tokenizer, VOCAB)
    many = [json_grammar({"const": n}) for n in range(9)]
    assert not any(each.error for each in made(grammars, *many, *many[1:], many[0]))
    assert grammars.compiled == 10
    assert all(each.error for each in made(grammars, "start: (", "start: ("))
    assert grammars.compiled == 12


def test_what_nobody_waits_for_is_not_compiled(tokenizer: HfTokenizer) -> None:
    grammars = Counting(tokenizer, VOCAB)
    began, go_on = threading.Event(), threading.Event()

    def hold(grammar: str) -> Any:
        began.set()
        assert go_on.wait(10)
        return Counting.compile(grammars, grammar)

    grammars.compile = hold  # type: ignore[method-assign]
    for number in range(4):
        grammars.ask(number, json_grammar({"const": number}))
    assert began.wait(10)
    for number in (0, 1, 2, 7):
        grammars.forget(number)
    go_on.set()
    ready: list[Compiled] = []
    while len(ready) < 2:
        more = grammars.take(10)
        assert more, "nothing was compiled"
        ready += more
    assert [each.request for each in ready] == [0, 3]
    assert grammars.compiled == 2
