"""Calls between `<tool_call>` tags."""

import pytest
from hypothesis import given

from opta_lmx.codec.tools.dialects import parser_for
from opta_lmx.codec.tools.protocol import CallBegin, CallEnd, CallText, TextOut
from tests.unit.codec.splitting import mixture, split_at, splits
from tests.unit.codec.tools.reading import read

LOOK = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
LOOKED = ("look", '{"at": "sky"}')


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ("Nothing to do.", "Nothing to do.", []),
        ("a < b, <tool_ca> and <b>", "a < b, <tool_ca> and <b>", []),
        (LOOK, "", [LOOKED]),
        (f"Let me see.\n{LOOK}\nDone.", "Let me see.\n\nDone.", [LOOKED]),
        (f"{LOOK}\n{LOOK}", "\n", [LOOKED, LOOKED]),
        ('<tool_call>{"name":"f","arguments":"{\\"a\\":1}"}</tool_call>', "", [("f", '{"a":1}')]),
        ('<tool_call>{"name":"f","arguments":"plain"}</tool_call>', "", [("f", '"plain"')]),
        ('<tool_call>{"name":"f","arguments":""}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":null}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name":"f"}</tool_call>', "", [("f", "{}")]),
        (
            '<tool_call>{"name":"f","parameters":{"n":1e400}}</tool_call>',
            "",
            [("f", '{"n":1e400}')],
        ),
        (
            '<tool_call>[{"name":"f","arguments":{}},{"name":"g","arguments":{}}]</tool_call>',
            "",
            [("f", "{}"), ("g", "{}")],
        ),
        (
            '<tool_call>{"name":"f","arguments":{}}\n{"name":"g","arguments":{}}</tool_call>',
            "",
            [("f", "{}"), ("g", "{}")],
        ),
        (
            '<tool_call>{"name":"f","arguments":{"s":"<tool_call> or </tool_call>"}}</tool_call>',
            "",
            [("f", '{"s":"<tool_call> or </tool_call>"}')],
        ),
        ('<tool_call>```json\n{"name":"f","arguments":{}}\n```</tool_call>', "", [("f", "{}")]),
    ],
)
def test_sound_calls(answer: str, text: str, calls: list[tuple[str, str]]) -> None:
    reading = read("hermes", [answer])
    assert (reading.text, list(reading.calls), reading.failures) == (text, calls, 0)


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('<tool_call>{"name":"f","arguments":{"a":[1,2,],}}</tool_call>', [("f", '{"a":[1,2]}')]),
        ('<tool_call>{"name":"f","arguments":{"a":1}</tool_call>', [("f", '{"a":1}')]),
        ('<tool_call>{"name":"f","arguments":{"a":[1}}</tool_call>', [("f", '{"a":[1]}')]),
        ('<tool_call>{"name":"f","arguments":{"a":1}}}</tool_call>', [("f", '{"a":1}')]),
        ('<tool_call>{"name":"f","arguments":{"a":"x\ny"}}</tool_call>', [("f", '{"a":"x\\ny"}')]),
        ('<tool_call>{"name":"f","arguments":{"a":True}}</tool_call>', [("f", '{"a":true}')]),
        ('<tool_call>{"name":"f","arguments":{"a":1', [("f", '{"a":1}')]),
        ('<tool_call>{"name":"f","arguments":{}}', [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":{}}</tool_c', [("f", "{}")]),
        (
            '<tool_call>{"name":"f","arguments":{}}<tool_call>{"name":"g","arguments":{}}',
            [("f", "{}"), ("g", "{}")],
        ),
    ],
)
def test_small_flaws_are_mended(answer: str, calls: list[tuple[str, str]]) -> None:
    reading = read("hermes", [answer])
    assert (reading.text, list(reading.calls), reading.failures) == ("", calls, 0)


@pytest.mark.parametrize(
    "answer",
    [
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>look at the sky</tool_call>",
        "<tool_call>\n<function=look up>\n</function>\n</tool_call>",
        '<tool_call>{"name": }</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        "<tool_call>" + "[" * 70 + "</tool_call>",
        "<tool_call>" + "[" * 5000 + "]" * 5000 + "</tool_call>",
    ],
)
def test_what_cannot_be_read_is_given_back_and_counted(answer: str) -> None:
    reading = read("hermes", [answer])
    assert (reading.text, reading.calls, reading.failures) == (answer, (), 1)


def test_what_breaks_after_it_was_shown_is_closed_and_counted() -> None:
    reading = read("hermes", ['<tool_call>{"name":"f","arguments":{"a":"unfinished'])
    assert (reading.text, reading.calls, reading.failures) == (
        "",
        (("f", '{"a":"unfinished"}'),),
        1,
    )


@pytest.mark.parametrize(
    ("answer", "name", "arguments"),
    [
        ("<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>", "f", '{"a": 1}'),
        ("<tool_call>f\n<arg_key>a</arg_key><arg_value>x y</arg_value>", "f", '{"a": "x y"}'),
        ('<tool_calls><tool_call>{"name":"f","arguments":{}}</tool_call>', "f", "{}"),
    ],
)
def test_relatives_of_the_family_are_read_too(answer: str, name: str, arguments: str) -> None:
    reading = read("hermes", [answer + "</tool_call></tool_calls>"])
    assert (reading.text, reading.calls, reading.failures) == ("", ((name, arguments),), 0)


def test_a_cut_answer_is_never_completed_by_guessing() -> None:
    cut = '<tool_call>{"name":"rm","arguments":{"paths":["/tmp/x"'
    reading = read("hermes", [cut], truncated=True)
    assert (reading.calls, reading.cut) == ((), ("rm", '{"paths":["/tmp/x'))
    whole = '<tool_call>{"name":"rm","arguments":{}}'
    assert read("hermes", [whole], truncated=True).calls == (("rm", "{}"),)


@pytest.mark.parametrize(
    ("broken", "text", "calls"),
    [
        (
            '<tool_call>{"name":"f,"arguments":{"a":"b"}}</tool_call>',
            '<tool_call>{"name":"f,"arguments":{"a":"b"}}</tool_call>',
            (),
        ),
        ('<tool_call>{"name":"f","arguments":{"a":"b}}</tool_call>', "", (("f", '{"a":"b}}"}'),)),
    ],
)
def test_a_missing_quote_costs_one_call_not_the_rest(
    broken: str, text: str, calls: tuple[tuple[str, str], ...]
) -> None:
    reading = read("hermes", [f"{broken} then {LOOK}"])
    assert (reading.text, reading.calls) == (f"{text} then ", (*calls, LOOKED))
    assert reading.failures == 1


def test_text_streams_at_once_and_only_a_partial_tag_waits() -> None:
    parser = parser_for("hermes")
    assert parser.feed("Hello ") == [TextOut("Hello ")]
    assert parser.feed("1 <tool") == [TextOut("1 ")]
    assert parser.feed("box") == [TextOut("<toolbox")]
    assert parser.feed("<tool_call>but") == []
    assert parser.feed(" no") == [TextOut("<tool_call>but no")]


def test_a_call_streams_as_it_is_generated() -> None:
    parser = parser_for("hermes")
    assert parser.feed('<tool_call>{"name": "look", "argum') == []
    assert parser.feed('ents": {"at') == [CallBegin("look"), CallText("{")]
    assert parser.feed('": "the s') == [CallText('"at": "the s')]
    assert parser.feed('ky"') == [CallText("ky")]
    assert parser.feed("}") == [CallText('"}'), CallEnd()]
    assert parser.feed("}\n</tool_call>") == []


def test_a_sound_call_reads_the_same_from_any_two_pieces() -> None:
    answer = r'<tool_call>{"name":"f","arguments":{"s":"a\"b\\</tool_call>\\"}}</tool_call> so'
    whole = read("hermes", [answer])
    assert (len(whole.calls), whole.text) == (1, " so")
    for cut in range(len(answer)):
        assert read("hermes", [answer[:cut], answer[cut:]]) == whole


fragments = mixture(
    "<tool_call>",
    "</tool_call>",
    '{"name":"f","arguments":{"a":"b"}}',
    '{"name":"f","arguments":{',
    '"',
    "\\",
    "}",
    "]",
    ",",
    "<",
    "\n",
    "```json",
)


@given(fragments, splits)
def test_any_split_reads_the_same(answer: str, cuts: list[int]) -> None:
    assert read("hermes", split_at(answer, cuts)) == read("hermes", [answer])


@given(fragments)
def test_without_calls_no_character_is_lost(answer: str) -> None:
    reading = read("hermes", [answer])
    assert reading.calls or reading.text == answer
