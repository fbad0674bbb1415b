"""From a prompt to token ids: default tool rendering, one BOS, validated ids."""

from typing import Any

import pytest

from opta_lmx.backends.protocol import TextError
from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.core.types import Message, Prompt, Tool, ToolCall

BOS = 1


class ByteTokenizer:
    """One id per byte above 2; `<s>` is id 1, added on request as real tokenizers do."""

    bos_token = "<s>"
    eos_token = "</s>"
    vocab_size = 258

    def encode(self, text: str, add_special: bool) -> list[int]:
        ids = [BOS] if add_special else []
        while text.startswith("<s>"):
            ids, text = [*ids, BOS], text[3:]
        return ids + [byte + 2 for byte in text.encode()]


def make(source: str = "{{ bos_token }}{{ messages[-1].content }}") -> TemplateTexts:
    template = ChatTemplate.from_source(source, bos_token="<s>", eos_token="</s>")
    return TemplateTexts(template, ByteTokenizer())


def text_of(ids: tuple[int, ...]) -> str:
    return bytes(token - 2 for token in ids if token != BOS).decode()


def test_chat_has_one_bos_when_the_template_writes_it() -> None:
    prepared = make().prepare(Prompt(messages=(Message("user", "ab"),)))
    assert prepared.ids == (BOS, ord("a") + 2, ord("b") + 2)
    assert prepared.cuts == ()


def test_chat_has_one_bos_when_the_template_does_not() -> None:
    prepared = make("{{ messages[-1].content }}").prepare(Prompt(messages=(Message("user", "a"),)))
    assert prepared.ids == (BOS, ord("a") + 2)


def test_a_prompt_that_ends_inside_reasoning_says_so() -> None:
    source = "{{ messages[-1].content }}{% if think %}<think>{% endif %}\n"
    texts = make(source)
    turn = (Message("user", "a"),)
    assert texts.prepare(Prompt(messages=turn, template_kwargs={"think": True})).thinking
    assert not texts.prepare(Prompt(messages=turn)).thinking
    assert not texts.prepare(Prompt(text="a<think>\n")).thinking


class Unasked(ByteTokenizer):
    """Takes for ever over long texts, so it must not be asked for them."""

    def encode(self, text: str, add_special: bool) -> list[int]:
        assert len(text) < 10_000
        return super().encode(text, add_special)


def test_what_cannot_fit_once_it_is_rendered_is_not_tokenized() -> None:
    source = "{% for m in messages %}[turn]{{ m.content }}[/turn]{% endfor %}"
    template = ChatTemplate.from_source(source, bos_token="<s>", eos_token="</s>")
    texts = TemplateTexts(template, Unasked(), context=100)
    prepared = texts.prepare(Prompt(messages=(Message("user", "a"),) * 1000))
    assert (prepared.ids, prepared.at_least) == ((), 14_000 // 128)
    short = texts.prepare(Prompt(messages=(Message("user", "a"),) * 100))
    assert (len(short.ids), short.at_least) == (1400 + 1, 0)


class Counted(ChatTemplate):
    rendered = 0

    def render(self, *arguments: Any, **named: Any) -> str:
        self.rendered += 1
        return super().render(*arguments, **named)


def test_a_template_is_tried_before_anybody_asks() -> None:
    speech = make()._template.speech
    template = Counted("{{ messages[-1].content }}", "model", "<s>", "</s>", speech)
    TemplateTexts(template, ByteTokenizer())
    assert template.rendered > 0


@pytest.mark.parametrize("text", ["a", "<s>a"])
def test_raw_text_has_one_bos(text: str) -> None:
    assert make().prepare(Prompt(text=text)).ids == (BOS, ord("a") + 2)


def test_ids_pass_through() -> None:
    assert make().prepare(Prompt(ids=(0, 257))).ids == (0, 257)


@pytest.mark.parametrize("token", [-1, 258, 2**40])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(TextError, match=f"token id {token} is outside"):
        make().prepare(Prompt(ids=(5, token)))


def test_empty_prompts_are_refused() -> None:
    with pytest.raises(TextError, match="empty"):
        make().prepare(Prompt(ids=()))
    with pytest.raises(TextError, match="no messages"):
        make().prepare(Prompt())


def test_tools_are_rendered_by_default_where_the_template_knows_none() -> None:
    texts = make("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}")
    call = ToolCall(id="a", name="adder", arguments='{"x": 17}')
    prompt = Prompt(
        messages=(
            Message("user", "go"),
            Message("assistant", tool_calls=(call,)),
            Message("tool", "result42", tool_call_id="a"),
        ),
        tools=(Tool(name="adder", description="adds"),),
    )
    text = text_of(texts.prepare(prompt).ids)
    assert "tool:" not in text
    assert "adder" in text.split("go")[0]
    assert text.index("17") < text.index("result42")


def test_tools_reach_a_template_that_knows_them() -> None:
    texts = make("{{ tools[0].function.name }}|{{ messages[0].content }}")
    prompt = Prompt(messages=(Message("user", "go"),), tools=(Tool(name="adder"),))
    assert text_of(texts.prepare(prompt).ids) == "adder|go"
