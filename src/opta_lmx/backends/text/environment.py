"""The Jinja sandbox chat templates run in: Hugging Face's conventions, and no way out.

A template is untrusted code. It cannot reach Python's internals, change its inputs or build
huge values by arithmetic; one that never ends is left to the watchdog, which kills the worker.
"""

# jinja2 leaves the value types of its registries open.
# pyright: reportUnknownMemberType=false

import json
import re
from collections.abc import Callable, Sized
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_format
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from opta_lmx.core.clock import SystemClock

MAX_REPEATED = 1_000_000
"""The longest text or list, and the widest padding, that one operator or filter may build."""

_MAX_BITS = 4_096
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


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses the operators that build a huge value from a small source."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_repeat(left, right)
            _check_repeat(right, left)
        elif operator == "**":
            _check_power(left, right)
        elif isinstance(left, str):
            _check_widths(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a value, refusing text methods that pad or format to a huge width."""
        # The sandbox hands out its own wrapper of `str.format`, which names the original.
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            if method.__name__ in ("format", "format_map"):
                _check_widths(owner)
            values = (*args, *kwargs.values())
            if any(isinstance(value, int) and value > MAX_REPEATED for value in values):
                raise SecurityError("the template pads text too widely")
        return super().call(context, obj, *args, **kwargs)


def build_environment() -> ImmutableSandboxedEnvironment:
    """Return a sandbox with the names, filters and tags that published chat templates rely on."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        extensions=[loopcontrols, _GenerationTag],
    )
    filters: dict[str, Callable[..., Any]] = {
        "tojson": _to_json,
        "center": _center,
        "format": _format,
    }
    names: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _new_dict,
        "namespace": _PlainNamespace,
    }
    environment.filters.update(filters)
    environment.globals.update(names)
    return environment


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"templates cannot store the name {name!r}")


def _check_repeat(value: Any, times: Any) -> None:
    if isinstance(times, int) and isinstance(value, Sized) and len(value) * times > MAX_REPEATED:
        raise SecurityError("the template repeats a value too many times")


def _check_power(base: Any, exponent: Any) -> None:
    numbers = isinstance(base, int) and isinstance(exponent, int)
    if numbers and exponent * base.bit_length() > _MAX_BITS:
        raise SecurityError("the template computes too large a number")


def _check_widths(text: str) -> None:
    if _HUGE_WIDTH.search(text):
        raise SecurityError("the template formats text too widely")


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
        raise SecurityError("the template pads text too widely")
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
