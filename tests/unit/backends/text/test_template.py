"""Chat templates of the shapes that published models use."""

import pytest

from opta_lmx.backends.protocol import TextError
from opta_lmx.backends.text import environment, template
from opta_lmx.backends.text.template import RESERVED, ChatTemplate
from opta_lmx.core.types import Message, Tool, ToolCall

SYSTEM, HELLO, AGAIN = Message("system", "Be kind."), Message("user", "Hello"), Message("user", "2")
ANSWER = Message("assistant", "Hi.")
TOOL = Tool(name="add", description="Adds <two> numbers", parameters={"z": 1, "a": 2})
CALL = ToolCall(id="id1", name="add", arguments='{"y": 2, "x": 1}')

ALTERNATING = """\
{{ bos_token }}{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% if m.role == 'user' %}[U]{{ m.content | trim }}[/U]{% else %}{{ m.content }}{{ eos_token }}
{%- endif %}
{% endfor %}"""

NO_SYSTEM = """\
{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}
{%- for m in messages -%}<{{ m.role }}>{{ m.content }}{%- endfor -%}"""

TOOLED = """\
{%- if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif -%}
{%- for m in messages -%}
{%- if m.tool_calls is defined -%}
{%- for c in m.tool_calls -%}
<tool_call>{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>
{%- endfor -%}
{%- elif m.role == 'tool' -%}<tool_response {{ m.name }}>{{ m.content }}</tool_response>
{%- else -%}<{{ m.role }}>{{ m.content }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Counts plain user and assistant turns only, as templates with a tool exchange of their own do.
TOOL_ALTERNATING = """\
{%- set ns = namespace(n=0) -%}
{%- for m in messages -%}
{%- if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is undefined) -%}
{%- if (m.role == 'user') != (ns.n % 2 == 0) -%}{{ raise_exception('must alternate') }}{%- endif -%}
{%- set ns.n = ns.n + 1 -%}
{%- endif -%}
{%- if m.tool_calls -%}[C]{{ m.tool_calls[0].function | tojson }}
{%- else -%}[{{ m.role }}]{{ m.content }}{%- endif -%}
{%- endfor -%}{{ tools }}"""


def make(source: str | None, **more: object) -> ChatTemplate:
    return ChatTemplate.from_source(source, bos_token="<s>", eos_token="</s>", **more)  # type: ignore[arg-type]


def test_alternation_is_met_by_merging() -> None:
    chat = make(ALTERNATING)
    assert chat.render([HELLO, ANSWER, AGAIN]) == "<s>[U]Hello[/U]Hi.</s>[U]2[/U]"
    assert chat.render([SYSTEM, HELLO, AGAIN]) == "<s>[U]Be kind.\n\nHello\n\n2[/U]"


def test_refused_system_turn_goes_to_the_user() -> None:
    assert make(NO_SYSTEM).render([SYSTEM, HELLO]) == "<user>Be kind.\n\nHello"


def test_accepted_conversation_is_left_alone() -> None:
    assert make(NO_SYSTEM).render([HELLO, AGAIN]) == "<user>Hello<user>2"


def test_user_turn_after_a_tool_result_is_folded_where_refused() -> None:
    turns = [
        HELLO,
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "3", tool_call_id="id1"),
        AGAIN,
    ]
    text = make(TOOL_ALTERNATING).render(turns)
    assert text.startswith('[user]Hello[C]{"name": "add", "arguments": {"y": 2, "x": 1}}')
    assert "[tool]3\n\n2" in text


def test_refusal_that_no_merging_helps_keeps_its_words() -> None:
    with pytest.raises(TextError, match="refuses this conversation: roles must alternate"):
        make(ALTERNATING).render([ANSWER])


def test_tools_calls_and_results_are_rendered() -> None:
    chat = make(TOOLED)
    assert chat.supports_tools
    text = chat.render(
        [
            HELLO,
            Message("assistant", tool_calls=(CALL,)),
            Message("tool", "3", tool_call_id="id1"),
        ],
        [TOOL],
    )
    assert '"description": "Adds <two> numbers", "parameters": {"z": 1, "a": 2}' in text
    assert '<tool_call>{"name": "add", "arguments": {"y": 2, "x": 1}}</tool_call>' in text
    assert text.endswith("<tool_response add>3</tool_response><assistant>")


def test_arguments_serve_templates_that_treat_them_as_text() -> None:
    chat = make("{{ 'call:' + messages[0].tool_calls[0].function.arguments + '!' }}")
    turn = Message("assistant", tool_calls=(CALL,))
    assert chat.render([turn]) == 'call:{"y": 2, "x": 1}!'


def test_dialect_and_tool_support_are_read_from_the_source() -> None:
    assert make(TOOLED).speech.tools == "hermes"
    assert not make(NO_SYSTEM).supports_tools
    assert make("{% if not tools is defined %}{% set tools = none %}{% endif %}").supports_tools


def test_generation_prompt_is_optional() -> None:
    assert make(TOOLED).render([HELLO], add_generation_prompt=False) == "<user>Hello"


def test_template_arguments_reach_the_template() -> None:
    chat = make("{{ enable_thinking }}/{{ reasoning_effort }}")
    assert chat.render([HELLO], kwargs={"enable_thinking": False}) == "False/"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_template_arguments_cannot_shadow(name: str) -> None:
    with pytest.raises(TextError, match=f"'{name}' is reserved"):
        make("{{ messages }}").render([HELLO], kwargs={name: 1})


def test_every_global_name_is_reserved() -> None:
    assert set(environment.build_environment().globals) <= RESERVED


@pytest.mark.parametrize("source", ["{% for %}", "{{ ", "{% if x %}", "{{ 1 | nosuch }}"])
def test_invalid_template_is_refused_at_load(source: str) -> None:
    with pytest.raises(ValueError, match="chat template"):
        make(source)


def test_overlong_template_is_refused_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SOURCE_CHARS", 10)
    with pytest.raises(ValueError, match="longer than 10"):
        make("x" * 11)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ messages.x.y }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ [1][5] + 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages | tojson(indent=messages) }}",
    ],
)
def test_failing_template_is_a_text_error(source: str) -> None:
    with pytest.raises(TextError, match="the chat template failed"):
        make(source).render([HELLO])


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_RENDERED_CHARS", 100)
    with pytest.raises(TextError, match="too much text"):
        make("{% for i in range(1000) %}xxxxxxxxxx{% endfor %}").render([HELLO])


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (
            "<|im_start|>",
            (
                "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
                "<|im_start|>assistant\n"
            ),
        ),
        (
            "<start_of_turn>",
            "<start_of_turn>user\nBe kind.\n\nHello<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("", "System: Be kind.\n\nUser: Hello\n\nAssistant:"),
    ],
)
def test_default_follows_the_vocabulary(token: str, expected: str) -> None:
    chat = make(None, has_token=lambda text: text == token)
    assert chat.source_kind == "default"
    assert chat.render([SYSTEM, HELLO]) == expected
    assert not chat.supports_tools


def test_source_kind_says_where_it_came_from() -> None:
    assert make("x").source_kind == "model"
    assert make("x", source_kind="config").source_kind == "config"


def test_default_for_gemma_alternates_speakers() -> None:
    chat = make(None, has_token=lambda text: text == "<start_of_turn>")
    assert chat.render([HELLO, ANSWER, AGAIN], add_generation_prompt=False) == (
        "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
        "<start_of_turn>user\n2<end_of_turn>\n"
    )


ONE_SHORT_CALL = """\
{%- for m in messages -%}
{%- if m.tool_calls is defined -%}
{%- if m.tool_calls | length > 1 -%}{{ raise_exception('one call at once') }}{%- endif -%}
{%- if m.tool_calls[0].id | length != 9 -%}{{ raise_exception('nine characters') }}{%- endif -%}
[CALL {{ m.tool_calls[0].id }} {{ m.tool_calls[0].function.arguments }}]
{%- elif m.role == 'tool' -%}[RESULT {{ m.tool_call_id }} {{ m.content }}]
{%- else -%}<{{ m.role }}>{{ m.content }}{%- endif -%}
{%- endfor -%}"""


def test_ids_and_calls_are_changed_to_fit_where_they_are_refused() -> None:
    calls = tuple(ToolCall(id=f"toolu_long{n}", name="add", arguments="{}") for n in (1, 2))
    results = [Message("tool", f"out{n}", tool_call_id=f"toolu_long{n}") for n in (1, 2)]
    turns = [SYSTEM, HELLO, Message("assistant", tool_calls=calls), *results]
    text = make(ONE_SHORT_CALL).render(turns)
    assert text.startswith("<system>Be kind.<user>Hello[CALL ")
    first, second = (text.split(f" out{n}]")[0].rsplit(" ", 1)[1] for n in (1, 2))
    assert text.count(first) == text.count(second) == 2
    assert text.index(f"[RESULT {first}") < text.index(f"[CALL {second}")


def test_words_after_a_result_are_folded_before_the_system_turn_is_given_up() -> None:
    result = Message("tool", "3", tool_call_id="id1")
    turns = [SYSTEM, HELLO, Message("assistant", tool_calls=(CALL,)), result, AGAIN, ANSWER, HELLO]
    assert "[system]Be kind." in make(TOOL_ALTERNATING).render(turns)
