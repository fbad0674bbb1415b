"""Tools of a request: what every dialect checks of them, of choices among them, and of calls."""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from opta_lmx.core.errors import invalid
from opta_lmx.core.types import Tool


def checked_tools(tools: Iterable[Tool], place: str = "tools.{}.name") -> tuple[Tool, ...]:
    """The tools of a request, once no two of them have the same name.

    Args:
        tools: in the request's order.
        place: where a tool's name stands in the request.

    Raises:
        LmxError: INVALID_REQUEST naming the second tool of a name.
    """
    found: dict[str, Tool] = {}
    for i, tool in enumerate(tools):
        if tool.name in found:
            where = place.format(i)
            raise invalid(f"The name in '{where}' is already taken by another tool.", param=where)
        found[tool.name] = tool
    return tuple(found.values())


def check_some(tools: Collection[Tool], said: str) -> None:
    """Raise INVALID_REQUEST where a call is insisted on (`said`), but there are no tools."""
    if not tools:
        raise invalid(f"'tool_choice' is '{said}', but there are no tools.", param="tool_choice")


def check_known(names: Collection[str], tools: Iterable[Tool], param: str) -> None:
    """Raise INVALID_REQUEST where there are no names, or one is no tool's."""
    if not names or not {tool.name for tool in tools}.issuperset(names):
        raise invalid(f"'{param}' names no tool of this request.", param=param)


def arguments_object(text: str) -> dict[str, Any] | None:
    """The arguments of a call; None for a text that is no JSON object, such as one cut short."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
