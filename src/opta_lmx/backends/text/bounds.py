"""What a template's filters and text methods may be given: checked before they work.

Each of them is one step of native code: nothing can stop it once it has begun.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import wraps
from typing import Any, cast

from jinja2 import pass_environment
from jinja2.environment import Environment
from jinja2.filters import make_attrgetter

from opta_lmx.backends.text.meter import MAX_BUILT, TemplateBoundError, made, weigh

MAX_REPEATED = 1_000_000
"""The longest text or list, and the widest padding, that one operator or filter may build."""

_MAX_SLOW = 100_000
_MAX_SEARCH = 1_000_000_000
_DIGITS = re.compile(r"\d{1,9}")
_SHALLOW = frozenset(
    {"abs", "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list"}
    | {"map", "random", "reject", "rejectattr", "reverse", "round", "select", "selectattr"}
    | {"slice", "sum", "_each", "_made", "_shown"}
)
"""Filters that look at no more than the outermost of what they are given."""
_SLOW = frozenset({"pprint", "striptags", "title", "urlencode", "wordcount", "wordwrap"})
"""Filters whose time is not in proportion to a text's length."""
_SIZED = frozenset({"batch", "center", "indent", "round", "slice", "truncate", "wordwrap"})
"""Filters whose numbers say how much they make."""
_ALIKE = frozenset({"eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lt", "ne"})
_SYMBOLS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_BACKWARDS = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})


def bounded_filter(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing what would make it build or work too much."""
    skipped = int(hasattr(work, "jinja_pass_arg"))

    @wraps(work)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_filter(name, [*args[skipped:], *kwargs.values()])
        return made(work(*args, **kwargs))

    return checked


def bounded_test(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The test, refusing values that cannot be compared in time."""
    if name not in _ALIKE | _SYMBOLS:
        return work

    @wraps(work)
    def checked(*args: Any, **kwargs: Any) -> Any:
        weigh(*args)
        return work(*args, **kwargs)

    return checked


def check_method(owner: str | bytes, name: str, args: Sequence[Any], named: Any) -> None:
    """Check a call of a method of text before it is made.

    Raises:
        TemplateBoundError: it would build or work too much.
    """
    values = [*args, *named.values()]
    if any(isinstance(value, int) and value > MAX_REPEATED for value in values):
        raise TemplateBoundError("the template pads text too widely")
    if name in ("format", "format_map"):
        check_format(str(owner), values, "{")
    elif name == "replace":
        check_replace(owner, *values[:2])
    elif name == "join":
        check_join(values[0] if values else (), owner)
    elif name == "expandtabs":
        _check_product(len(owner), int(values[0]) if values else 8)
    elif name == "translate" and values and isinstance(values[0], Mapping):
        texts = cast("Mapping[Any, Any]", values[0]).values()
        _check_product(len(owner), max((weigh(text) for text in texts), default=1))
    elif name in _BACKWARDS:
        _check_search(owner, values)


def check_format(text: str, values: Sequence[Any], mark: str) -> None:
    """Check what a text with `%` or `{}` in it would become. Raises TemplateBoundError."""
    widths = sum(int(number) for number in _DIGITS.findall(text)) if mark in text else 0
    inner = [value for value in values if isinstance(value, int)]
    wide = max(inner, default=0) if "{" in text.partition(":")[2] or "*" in text else 0
    _check_built(widths + text.count(mark) * (wide + weigh(*values)))


def check_replace(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    """Check what comes out when each `old` is a `new`. Raises TemplateBoundError."""
    if isinstance(text, bytes) or not isinstance(old, str):
        _check_product(weigh(text), weigh(new))
        return
    text = text if isinstance(text, str) else str(text)
    _check_product(text.count(old), weigh(new))


def check_join(values: Any, between: Any) -> None:
    """Check what joining gives; what has no length is counted on the way. Raises as the others."""
    if isinstance(values, Sized):
        _check_built(weigh(values) + len(values) * weigh(between))


@pass_environment
def total(
    environment: Environment, values: Any, attribute: str | int | None = None, start: Any = 0
) -> Any:
    """Jinja's `sum`, each step of which is counted."""
    part = make_attrgetter(environment, attribute) if attribute is not None else None
    for value in values:
        start = made(start + (value if part is None else part(value)))
    return start


def _check_filter(name: str, values: list[Any]) -> None:
    if name not in _SHALLOW:
        size = weigh(*values)
        if name in _SLOW and size > _MAX_SLOW:
            raise TemplateBoundError(f"the template gives '{name}' too long a text")
    numbers = [value for value in values[1:] if isinstance(value, int)]
    if name in _SIZED and max(numbers, default=0) > MAX_REPEATED:
        raise TemplateBoundError("the template pads text too widely")
    if name == "format":
        check_format(str(values[0]), values[1:], "%")
    elif name == "replace":
        check_replace(*values)
    elif name == "join":
        check_join(values[0], values[1] if len(values) > 1 else "")
    elif name == "tojson" and len(values) > 1:
        steps = [one for one in values[1:] if isinstance(one, int | str)]
        _check_product(weigh(values[0]), 1 + max(_length(step) for step in steps or [0]))
    elif name in ("indent", "wordwrap"):
        widest = max((_length(value) for value in values[1:]), default=0)
        _check_product(str(values[0]).count("\n") + 1 if name == "indent" else 1, widest)
    elif name == "trim":
        _check_search(str(values[0]), values[1:])


def _length(value: Any) -> int:
    return value if isinstance(value, int) else len(str(value))


def _check_search(text: str | bytes, values: Sequence[Any]) -> None:
    longest = max((len(value) for value in values if isinstance(value, str | bytes)), default=0)
    if longest > 1 and len(text) * longest > _MAX_SEARCH:
        raise TemplateBoundError("the template searches for too long a text")


def _check_product(times: int, size: int) -> None:
    _check_built(times * size)


def _check_built(size: int) -> None:
    if size > MAX_BUILT:
        raise TemplateBoundError("the template builds too large a value")
