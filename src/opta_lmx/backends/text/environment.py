"""The Jinja sandbox chat templates run in: Hugging Face's conventions, and no way out.

A template is untrusted code. It cannot reach Python's internals or change its inputs, and all
that it builds, each round of a loop and each call is counted by a `Meter` which ends it.
"""

# jinja2 leaves the value types of its registries open.
# pyright: reportUnknownMemberType=false

import json
import re
from collections.abc import Callable, Sized
from datetime import UTC, datetime
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_format
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from opta_lmx.backends.text.bounds import (
    MAX_REPEATED,
    bounded_filter,
    bounded_test,
    check_format,
    check_method,
    total,
)
from opta_lmx.backends.text.meter import TemplateBoundError, each, made, meter, shown
from opta_lmx.core.clock import SystemClock

_MAX_BITS = 4_096
_UNNEEDED = ("lipsum", "urlize", "xmlattr")
"""What Jinja has for web pages alone, and whose cost is not told by what it is given."""
_HUGE_WIDTH = re.compile(r"%[-+ #0-9.]*(\d{6}|\*)|:[^{}]*\d{6}")


class TemplateRefusedError(TemplateError):
    """The template itself called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %}` marks text for training masks; when generating it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """A namespace that cannot hold underscore names, which the sandbox reserves."""

    def __init__(*args: Any, **values: Any) -> None:
        for name in dict(*args[1:], **values):
            _refuse_underscore(name)
        Namespace.__init__(*args, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


class _Counting(NodeTransformer):
    """Puts the counting filters where Jinja's own code would not ask the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.iter = _passed(cast("nodes.Expr", node.iter), "_each")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return _passed(node, "_made") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.nodes = [_passed(one, "_shown") for one in node.nodes]
        return _passed(node, "_made")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        for side in (node, *node.ops):
            if not isinstance(side.expr, nodes.Const):
                side.expr = _passed(side.expr, "_shown")
        return node


def _passed(value: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class _Code(CodeGenerator):
    """Leaves nothing to be worked out while compiling, when nothing is counted."""

    def _output_child_to_const(self, node: Any, frame: Any, finalize: Any) -> str:
        del node, frame, finalize
        raise nodes.Impossible


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses operators and calls that build a huge value from a small source; counts the rest."""

    code_generator_class = _Code
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _generate(
        self, source: nodes.Template, name: Any, filename: Any, defer_init: bool = False
    ) -> str:
        return super()._generate(_Counting().visit(source), name, filename, defer_init)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_repeat(left, right)
            _check_repeat(right, left)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_widths(left)
            check_format(left, [right], "%")
        return made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a value, refusing text methods that would build too much."""
        # The sandbox hands out its own wrapper of `str.format`, which names the original.
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes):
            if isinstance(owner, str) and method.__name__ in ("format", "format_map"):
                _check_widths(owner)
            check_method(owner, method.__name__, args, kwargs)
        with meter().deeper():
            return made(super().call(context, obj, *args, **kwargs))


def build_environment() -> ImmutableSandboxedEnvironment:
    """Return a sandbox with the names, filters and tags that published chat templates rely on."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        extensions=[loopcontrols, _GenerationTag],
        optimized=False,
        finalize=_written,
    )
    filters: dict[str, Callable[..., Any]] = {
        "tojson": _to_json,
        "center": _center,
        "format": _format,
        "sum": total,
    }
    names: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _new_dict,
        "namespace": _PlainNamespace,
    }
    environment.filters.update(filters)
    for name in _UNNEEDED:
        environment.filters.pop(name, None)
        environment.globals.pop(name, None)
    _bound(environment)
    environment.globals.update(names)
    return environment


def _bound(environment: _Sandbox) -> None:
    filters = cast("dict[str, Callable[..., Any]]", environment.filters)
    tests = cast("dict[str, Callable[..., Any]]", environment.tests)
    for name, work in filters.items():
        filters[name] = bounded_filter(name, work)
    for name, test in tests.items():
        tests[name] = bounded_test(name, test)
    filters.update({"_each": each, "_made": made, "_shown": shown})


def _written(value: Any) -> Any:
    """What a template writes is counted, also where it is kept and not yet given out."""
    return made(value if isinstance(value, str) else str(shown(value)))


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"templates cannot store the name {name!r}")


def _check_repeat(value: Any, times: Any) -> None:
    if not isinstance(times, int):
        return
    if isinstance(value, Sized) and len(value) * times > MAX_REPEATED:
        raise TemplateBoundError("the template repeats a value too many times")
    if isinstance(value, int) and value.bit_length() + times.bit_length() > _MAX_BITS:
        raise TemplateBoundError("the template computes too large a number")


def _check_power(base: Any, exponent: Any) -> None:
    numbers = isinstance(base, int) and isinstance(exponent, int)
    if numbers and exponent * base.bit_length() > _MAX_BITS:
        raise TemplateBoundError("the template computes too large a number")


def _check_widths(text: str) -> None:
    if _HUGE_WIDTH.search(text):
        raise TemplateBoundError("the template formats text too widely")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for a prompt: nothing escaped for HTML, keys in the caller's order."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _center(value: str, width: int = 80) -> str:
    if width > MAX_REPEATED:
        raise TemplateBoundError("the template pads text too widely")
    return str(value).center(width)


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    _check_widths(str(value))
    return do_format(value, *args, **kwargs)


def _raise_exception(message: str) -> str:
    raise TemplateRefusedError(message)


def _strftime_now(form: str) -> str:
    now = datetime.fromtimestamp(SystemClock().now_ms() / 1000, tz=UTC)
    return now.astimezone().strftime(form)


def _new_dict(*args: Any, **values: Any) -> dict[str, Any]:
    # A plain function: the type itself would hand its class methods to the template.
    return dict(*args, **values)
