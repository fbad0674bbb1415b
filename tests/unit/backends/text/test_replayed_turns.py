"""Every family's published template takes a whole conversation of tools from any client."""

import pytest

from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.core.types import Message, Tool, ToolCall
from tests.support.families import VERIFIED, Family
from tests.support.templates import template

pytestmark = pytest.mark.network

TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
IDS = ("toolu_01AbCdEfGhIjKlMnOpQrStUv", "call_2")
CALLS = tuple(
    ToolCall(call_id, "look", f'{{"at": "{place}"}}')
    for call_id, place in zip(IDS, ("harbour", "orchard"), strict=True)
)
CONVERSATION = [
    Message("system", "Sysword."),
    Message("user", "Firstword."),
    Message("assistant", reasoning="Because.", tool_calls=CALLS),
    Message("tool", "Shipword.", tool_call_id=IDS[0]),
    Message("tool", "Appleword.", tool_call_id=IDS[1]),
    Message("user", "Besideword."),
    Message("assistant", "Answerword."),
    Message("user", "Lastword."),
]
SAID = ("Firstword", "harbour", "Shipword", "Besideword", "Answerword", "Lastword")
SECOND = ("harbour", "orchard", "Appleword", "Besideword")


@pytest.mark.parametrize("family", VERIFIED, ids=lambda family: family.name)
def test_nothing_is_refused_or_lost(family: Family) -> None:
    assert family.template is not None
    made = ChatTemplate.from_source(template(family.template), bos_token="<s>", eos_token="</s>")
    text = made.render(CONVERSATION, [TOOL])
    assert "Sysword" in text
    for words in (SAID, SECOND):
        places = [text.find(word) for word in words]
        assert -1 not in places, dict(zip(words, places, strict=True))
        assert places == sorted(places), dict(zip(words, places, strict=True))
