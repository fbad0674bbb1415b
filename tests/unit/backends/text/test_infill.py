"""Prompts with a gap: which family a vocabulary belongs to, and how each one writes it."""

import pytest

from opta_lmx.backends.protocol import TextError
from opta_lmx.backends.text.infill import FAMILIES, Infill, Marks, find_infill
from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.core.types import Message, Prompt

BOS, PRE, SUF, MID = 1, 1000, 1001, 1002


class SpacedBytes:
    """One id per byte; before every text a space, as SentencePiece-style vocabularies write."""

    bos_token = "<s>"
    eos_token = "</s>"
    vocab_size = 2000

    def __init__(self, *, spaced: bool = False) -> None:
        self.spaced = spaced

    def encode(self, text: str, add_special: bool) -> list[int]:
        shown = f" {text}" if self.spaced and text else text
        return ([BOS] if add_special else []) + list(shown.encode())

    def decode(self, ids: "list[int] | tuple[int, ...]") -> str:
        return bytes(token for token in ids if token != BOS).decode()


def vocabulary(marks: Marks) -> dict[str, int]:
    ids = {marks.prefix: PRE, marks.suffix: SUF}
    return {**ids, marks.middle: MID} if marks.middle else ids


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.prefix)
def test_each_family_is_told_by_its_own_marks(marks: Marks) -> None:
    infill = find_infill(vocabulary(marks).get)
    assert infill is not None
    ids = infill.encode(SpacedBytes(), "ab", "cd")
    left, right = [PRE, *b"ab"], [SUF, *b"cd"]
    middle = [MID] if marks.middle else []
    body = right + left if marks.suffix_first else left + right
    assert ids == [BOS, *body, *middle]


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.prefix)
def test_one_mark_less_is_no_family(marks: Marks) -> None:
    for missing in vocabulary(marks):
        rest = {text: token for text, token in vocabulary(marks).items() if text != missing}
        assert find_infill(rest.get) is None


def test_a_plain_vocabulary_is_no_family() -> None:
    assert find_infill({"hello": 5, "<s>": 1}.get) is None


def test_the_suffix_has_no_space_of_the_vocabulary_before_it() -> None:
    spaced = next(marks for marks in FAMILIES if marks.spaced)
    ids = Infill(spaced, (PRE, SUF, MID)).encode(SpacedBytes(spaced=True), "ab", "cd")
    assert ids == [BOS, PRE, *b" ab", SUF, *b"cd", MID]


def test_empty_sides_are_only_marks() -> None:
    infill = find_infill(vocabulary(FAMILIES[0]).get)
    assert infill is not None
    assert infill.encode(SpacedBytes(), "", "") == [BOS, PRE, SUF, MID]


def texts(infill: Infill | None) -> TemplateTexts:
    source = "{{ messages[-1].content }}"
    template = ChatTemplate.from_source(source, bos_token="<s>", eos_token="</s>")
    return TemplateTexts(template, SpacedBytes(), infill)


def test_a_suffix_reaches_the_family_through_the_prompt() -> None:
    infill = find_infill(vocabulary(FAMILIES[0]).get)
    prepared = texts(infill).prepare(Prompt(text="ab", suffix="cd"), echo=True)
    assert prepared.ids == (BOS, PRE, *b"ab", SUF, *b"cd", MID)
    assert prepared.text == "ab"


def test_a_model_without_marks_refuses_a_suffix_by_name() -> None:
    with pytest.raises(TextError, match="cannot fill in") as refused:
        texts(None).prepare(Prompt(text="ab", suffix="cd"))
    assert refused.value.param == "suffix"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (Prompt(text="ab"), "ab"),
        (Prompt(ids=(97, 98, 99)), "abc"),
        (Prompt(messages=(Message("user", "said"),)), "said"),
    ],
    ids=["text", "ids", "messages"],
)
def test_the_text_of_a_prompt_is_told_only_where_asked_for(prompt: Prompt, text: str) -> None:
    assert texts(None).prepare(prompt, echo=True).text == text
    assert texts(None).prepare(prompt).text is None
