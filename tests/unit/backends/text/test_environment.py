"""The sandbox: published conventions work, escapes and huge values do not."""

import re

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from opta_lmx.backends.text.environment import TemplateRefusedError, build_environment


def render(source: str, **values: object) -> str:
    return build_environment().from_string(source).render(values)


def test_blocks_leave_no_blank_lines() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_tojson_keeps_order_letters_and_markup() -> None:
    value = {"z": "é<b>&'", "a": [1, None, True]}
    assert render("{{ v | tojson }}", v=value) == '{"z": "é<b>&\'", "a": [1, null, true]}'
    assert render("{{ v | tojson(indent=1) }}", v={"a": 1}) == '{\n "a": 1\n}'


def test_loop_controls_and_namespace() -> None:
    source = (
        "{%- set ns = namespace(seen=0) -%}{%- for n in items -%}{%- if n == 2 -%}{%- continue -%}"
        "{%- endif -%}{%- if n == 4 -%}{%- break -%}{%- endif -%}{%- set ns.seen = ns.seen + n -%}"
        "{%- endfor -%}{{ ns.seen }}"
    )
    assert render(source, items=[1, 2, 3, 4, 5]) == "4"


def test_generation_tag_is_transparent() -> None:
    assert render("a{% generation %}{{ x }}{% endgeneration %}c", x="b") == "abc"


def test_date_and_dict_helpers() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))
    assert render("{{ dict(a=1, **{'b': 2}) | tojson }}") == '{"a": 1, "b": 2}'


def test_raise_exception_carries_its_words() -> None:
    with pytest.raises(TemplateRefusedError, match="only users"):
        render("{{ raise_exception('only users') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ dict.__init__() }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ items.append(1) }}",
        "{{ table.update({'a': 1}) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.x.y }}",
        "{{ namespace(__class__=1).x.y }}",
    ],
)
def test_escapes_are_refused(source: str) -> None:
    items: list[int] = []
    table: dict[str, int] = {}
    with pytest.raises(TemplateError):
        render(source, items=items, table=table)
    assert items == []
    assert table == {}


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'a' * 10000000 }}",
        "{{ 10000000 * 'a' }}",
        "{{ [0] * 10000000 }}",
        "{{ 9**(9**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=999999999) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a'|center(999999999) }}",
    ],
)
def test_huge_values_are_refused_at_once(source: str) -> None:
    with pytest.raises((SecurityError, OverflowError)):
        render(source)


def test_ordinary_arithmetic_and_formatting_still_work() -> None:
    source = "{{ '-' * 3 }}{{ 7 % 4 }}{{ 2**10 }}{{ '%s=%03d' % ('a', 5) }}{{ '{:>4}'.format(1) }}"
    assert render(source) == "---31024a=005   1"
    assert render("{{ 'a'.center(3) }}{{ 'b'|center(3) }}{{ '%s'|format('c') }}") == " a  b c"


def test_text_that_looks_like_a_format_is_only_text() -> None:
    words = '{"1234567": 1} 50%1234567 %* :999999999'
    assert render("{{ x.strip() }}{{ '{}'.format(x) }}{{ '%s' % x }}", x=words) == words * 3
