"""Anchors: from offsets in messages to offsets in tokens."""

from typing import Any

import pytest

from opta_lmx.backends.text.anchors import anchor_tokens
from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.types import Message, Prompt
from tests.support.tiny import TEMPLATE, tiny_llama

STABLE, VOLATILE = "You guard the north gate. " * 20, "Session 7 of the night."


def encode(text: str) -> list[int]:
    """Two letters a token, so that a token may reach over an anchor."""
    return [hash(text[at : at + 2]) for at in range(0, len(text), 2)]


def system(*anchors: int, edge: str = "") -> Message:
    return Message("system", f"{edge}{STABLE}{VOLATILE}", anchors=anchors)


@pytest.mark.parametrize("head", ["", "x"])
def test_an_anchor_ends_at_the_last_token_before_it(head: str) -> None:
    text = f"{head}{STABLE}{VOLATILE}"
    (at,) = anchor_tokens(text, encode(text), [system(len(STABLE))], encode)
    assert at == (len(head) + len(STABLE.strip())) // 2


def test_edges_that_the_template_strips_move_no_anchor() -> None:
    message = system(3 + len(STABLE), edge=" \n ")
    text = f"<{message.content.strip()}>"
    (at,) = anchor_tokens(text, encode(text), [message], encode)
    assert at == (1 + len(STABLE.strip())) // 2


def test_anchors_are_looked_for_behind_the_messages_before_them() -> None:
    said = Message("user", "the same words", anchors=(14,))
    text = "the same words|the same words"
    turns = [Message("user", "the same words"), said]
    assert anchor_tokens(text, encode(text), turns, encode) == (len(encode(text)),)


def test_what_the_template_changed_or_left_out_is_no_anchor() -> None:
    text = STABLE.upper()
    assert anchor_tokens(text, encode(text), [system(len(STABLE))], encode) == ()
    assert anchor_tokens("", [], [Message("user", "   ", anchors=(2,))], encode) == ()


def test_words_that_a_template_changes_behind_an_anchor_are_found_all_the_same() -> None:
    message = system(len(STABLE))
    text = STABLE + VOLATILE.upper()
    assert anchor_tokens(text, encode(text), [message], encode) == (len(STABLE.strip()) // 2,)


def test_a_long_conversation_that_the_template_changed_is_not_searched_for_ever() -> None:
    class Counted(str):
        __slots__ = ()
        looks = 0

        def find(self, *arguments: Any) -> int:
            Counted.looks += 1
            return super().find(*arguments)

    turns = [Message("user", f"turn {number}") for number in range(1000)]
    turns.append(Message("user", "the end", anchors=(7,)))
    text = Counted("nothing of it")
    assert anchor_tokens(text, encode(text), turns, encode) == ()
    assert Counted.looks < 20


def test_prompts_beyond_the_window_are_not_read_again() -> None:
    template = ChatTemplate.from_source(TEMPLATE, bos_token="", eos_token="")
    tokenizer = HfTokenizer.from_folder(tiny_llama())
    turns = (system(len(STABLE)), Message("user", "Who goes there?"))
    narrow = TemplateTexts(template, tokenizer, context=40, anchored=True)
    prepared = narrow.prepare(Prompt(messages=turns))
    assert len(prepared.ids) > 40
    assert prepared.anchors == ()


def test_only_the_last_few_are_looked_at() -> None:
    message = Message("user", "abcdefghij", anchors=(2, 4, 6, 8, 10))
    assert anchor_tokens(message.content, encode(message.content), [message], encode) == (
        *(2, 3, 4, 5),
    )


def test_a_real_tokenizer_and_template_agree_with_the_prompts_own_tokens() -> None:
    template = ChatTemplate.from_source(TEMPLATE, bos_token="", eos_token="")
    tokenizer = HfTokenizer.from_folder(tiny_llama())
    texts = TemplateTexts(template, tokenizer, anchored=True)
    turns = (system(len(STABLE)), Message("user", "Who goes there?", anchors=(15,)))
    other = (Message("system", f"{STABLE}Another end altogether."), turns[1])
    one, two = (texts.prepare(Prompt(messages=messages)) for messages in (turns, other))
    shared = next(at for at, (a, b) in enumerate(zip(one.ids, two.ids, strict=False)) if a != b)
    first, last = one.anchors
    assert shared - 2 <= first <= shared
    assert one.cuts[-2] < last <= one.cuts[-1]
    assert TemplateTexts(template, tokenizer).prepare(Prompt(messages=turns)).anchors == ()
