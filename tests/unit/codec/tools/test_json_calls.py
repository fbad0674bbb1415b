"""Calls as bare, fenced or marked JSON."""

import pytest
from hypothesis import given

from opta_lmx.codec.tools.dialects import parser_for
from opta_lmx.codec.tools.protocol import CallBegin, CallEnd, CallText, TextOut
from tests.unit.codec.splitting import mixture, split_at, splits
from tests.unit.codec.tools.reading import read

LOOK = '{"name": "look", "parameters": {"at": "sky"}}'
LOOKED = ("look", '{"at": "sky"}')


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        (LOOK, "", [LOOKED]),
        (f"\n {LOOK}\n", "\n", [LOOKED]),
        (f"[{LOOK}, {LOOK}]", "", [LOOKED, LOOKED]),
        (f"{LOOK}; {LOOK}", "", [LOOKED, LOOKED]),
        (f"```json\n{LOOK}\n```", "", [LOOKED]),
        (f"```\n{LOOK}\n```\nDone.", "\nDone.", [LOOKED]),
        (f"{LOOK}\nThat will tell.", "\nThat will tell.", [LOOKED]),
        (f"<|python_tag|>{LOOK}", "", [LOOKED]),
        (f"Well. <|python_tag|>{LOOK}", "Well. ", [LOOKED]),
        (f"[TOOL_CALLS] [{LOOK}]", "", [LOOKED]),
        ('{"type":"function","function":{"name":"f","arguments":"{}"}}', "", [("f", "{}")]),
        ('{"type":"function","function":"f","parameters":{"a":1}}', "", [("f", '{"a":1}')]),
        ('{"name":"f","arguments":{"s":"} ] {"}}', "", [("f", '{"s":"} ] {"}')]),
        ('{"name":"f","arguments":{"a":[1,2,],}}', "", [("f", '{"a":[1,2]}')]),
        ('{"name":"f","arguments":{"a":[1,2', "", [("f", '{"a":[1,2]}')]),
    ],
)
def test_calls(answer: str, text: str, calls: list[tuple[str, str]]) -> None:
    reading = read("json", [answer])
    assert (reading.text, list(reading.calls), reading.failures) == (text, calls, 0)


@pytest.mark.parametrize(
    "answer",
    [
        "Hello.",
        "[1, 2, 3]",
        "[]",
        "{}",
        '{"city": "Bern", "name": "x", "arguments": {}}',
        '{"name": "Ann", "age": 7}',
        '{"type": "object", "properties": {}}',
        f"Sure: {LOOK}",
        "```python\nprint({})\n```",
        "[see above] and [TOOLS]",
        '<|python_tag|>weather.get(city="Bern")',
        "<|python_tag|>",
        " " * 300 + LOOK,
    ],
)
def test_answers_that_are_no_calls_stay_as_they_are(answer: str) -> None:
    reading = read("json", [answer])
    assert (reading.text, reading.calls, reading.failures) == (answer, (), 0)


@pytest.mark.parametrize(
    "answer",
    ['{"name": oops}', '{"name": "f" "g"}; x'],
)
def test_broken_calls_are_given_back_and_counted(answer: str) -> None:
    reading = read("json", [answer])
    assert (reading.text, reading.calls, reading.failures) == (answer, (), 1)


def test_a_cut_answer_is_never_completed_by_guessing() -> None:
    reading = read("json", ['{"name":"rm","arguments":{"paths":["/tmp"'], truncated=True)
    assert reading.calls == ()
    assert reading.cut == ("rm", '{"paths":["/tmp')


def test_json_that_is_no_call_streams_after_its_first_key() -> None:
    parser = parser_for("json")
    assert parser.feed('{"ci') == []
    assert parser.feed('ty":') == [TextOut('{"city":')]
    assert parser.feed(' "Bern"') == [TextOut(' "Bern"')]


@pytest.mark.parametrize("mark", ["<|python_tag|>", "[TOOL_CALLS]"])
@pytest.mark.parametrize("text", ["", "Well. "])
def test_a_mark_may_come_in_pieces(text: str, mark: str) -> None:
    for cut in range(1, len(mark)):
        reading = read("json", [text + mark[:cut], mark[cut:] + LOOK])
        assert (reading.text, reading.calls) == (text, (LOOKED,))
        again = read("json", [f"{LOOK}; {mark[:cut]}", mark[cut:] + LOOK])
        assert (again.text, again.calls) == ("", (LOOKED, LOOKED))


def test_a_call_is_returned_as_soon_as_its_bracket_closes() -> None:
    parser = parser_for("json")
    assert parser.feed(LOOK[:-2])[0] == CallBegin("look")
    assert parser.feed("}") == [CallText('"}'), CallEnd()]


fragments = mixture(
    '{"name":"f","arguments":{"a":"b"}}',
    '{"name":',
    '{"x":1}',
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "```json\n",
    "```",
    "[",
    "]",
    "{",
    "}",
    ";",
    ",",
    '"',
    "\\",
    "\n",
    " " * 130,
    "text",
)


@given(fragments, splits)
def test_any_split_reads_the_same(answer: str, cuts: list[int]) -> None:
    assert read("json", split_at(answer, cuts)) == read("json", [answer])


@given(fragments)
def test_without_calls_no_character_is_lost(answer: str) -> None:
    reading = read("json", [answer])
    assert reading.calls or reading.text == answer
