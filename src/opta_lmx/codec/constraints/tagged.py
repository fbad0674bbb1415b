"""Arguments that stand in tags one by one, as grammar: only strings are written without quotes.

What the tags cannot be held to is refused: the caller was promised that it holds.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, cast

import msgspec

from opta_lmx.codec.constraints.compiling import is_possible
from opta_lmx.codec.constraints.lark import Lark, literal
from opta_lmx.codec.tools.parameters import ArgumentTypes, flattened
from opta_lmx.codec.tools.reading import LONGEST_NAME
from opta_lmx.codec.tools.values import referred
from opta_lmx.core.errors import unsupported


class Tags(msgspec.Struct, frozen=True):
    """What stands before an argument's name, between it and its value, and behind the value."""

    before: str
    between: str
    behind: str


_STRING = frozenset(("string",))
_UNHELD = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum")
"""Keywords at the root that may bind several arguments at once."""
_UNHELD_OF_STRINGS = ("$ref", "allOf", "anyOf", "oneOf", "format")
_DEFINITIONS = ("$defs", "definitions")
_BESIDE = frozenset(("type", *_DEFINITIONS))
_IN_ONE = ("additionalProperties", "items")
_IN_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_IN_MAP = ("properties", "patternProperties", *_DEFINITIONS)
_ANY_NAME = r'/[^\s<>"]([^\r\n\t<>"]{0,62}[^\s<>"])?/'
_DEEPEST = 16
_MOST_STRINGS = 5_000
"""Strings of one tool, and how deep their alternatives may be nested."""
_MOST_COPIED_BYTES = 2 * 1024 * 1024
"""Each part that refers to others is a schema of its own, with a copy of them."""
_WHOLE = "whole"
"""Where the whole schema stands among the definitions of a part that refers to other parts."""


class TaggedArguments:
    """The arguments of one tool.

    Args:
        lark: takes the rules.
        tool: its name.
        schema: prepared.
        tags: the dialect's.
    """

    def __init__(self, lark: Lark, tool: str, schema: dict[str, Any], tags: Tags) -> None:
        self._lark = lark
        self._tool = tool
        self._tags = tags
        self._schema = flattened(schema)
        self._whole = schema
        self._astray = any(not _is_defined(found) for found in _references(schema))
        self._types = ArgumentTypes(schema)
        self._left = _MOST_STRINGS
        self._rules: dict[bytes, str] = {}
        self._moved: dict[str, Any] = _moved(schema) if self._astray else {}
        self._size, self._spare = len(msgspec.json.encode(schema)), _MOST_COPIED_BYTES
        self._patterns = cast("dict[str, Any]", self._schema.get("patternProperties", {}))
        self._beyond: Any = self._schema.get("additionalProperties", not self._patterns)

    def expression(self) -> str:
        """Return an expression for all arguments; empty when there can be none.

        Raises:
            LmxError: UNSUPPORTED_PARAMETER for what cannot be held.
        """
        for key in _UNHELD:
            if key in self._schema:
                self._refuse(key)
        properties = cast("dict[str, Any]", self._schema.get("properties", {}))
        required = list(dict.fromkeys(cast("list[str]", self._schema.get("required", []))))
        missing = [name for name in required if name not in properties]
        if self._patterns and (properties or missing):
            self._refuse("patternProperties")
        listed = {**properties, **dict.fromkeys(missing, self._beyond)}
        pairs = [
            (pair, name in required)
            for name, member in listed.items()
            if self._can_be_written(name, name in required)
            and (pair := self._pair(literal(name), member, self._types.of(name)))
        ]
        return self._counted(pairs, self._other(listed))

    def _can_be_written(self, name: str, required: bool) -> bool:
        """Whether a reader of the tags gets back this very name."""
        end = self._tags.between.partition("\n")[0]
        plain = name == name.strip() and len(name) <= LONGEST_NAME and end not in name
        if required and not plain:
            self._refuse("required")
        return plain

    def _pair(self, name: str, member: Any, types: frozenset[str]) -> str:
        """An argument with its tags; empty where no value fits it."""
        tags = self._tags
        if isinstance(member, bool) or types != _STRING:
            value = self._json(member)
            value = value and f"{value} {literal(tags.behind)}"
        else:
            value = self._text(self._rooted(member))
        return value and f"{literal(tags.before)} {name} {literal(tags.between)} {value}"

    def _json(self, member: Any) -> str:
        key = msgspec.json.encode(member)
        if key not in self._rules:
            schema = self._rooted(member)
            possible = schema.keys() <= _BESIDE or is_possible(_alone(schema))
            self._rules[key] = self._lark.json(schema) if possible else ""
        return self._rules[key]

    def _other(self, listed: Mapping[str, Any]) -> str:
        """One argument that is not listed, or nothing."""
        types = self._types.of("")
        names = {
            pattern: self._matching(pattern, "patternProperties") for pattern in self._patterns
        }
        ways = [
            self._free(self._lark.terminal(f"{_ANY_NAME} & {names[pattern]}"), member, types)
            for pattern, member in self._patterns.items()
        ]
        # A list of arguments stays closed unless it was opened in so many words.
        if self._beyond is not False and ("additionalProperties" in self._schema or not listed):
            taken = [*map(literal, listed), *names.values()]
            apart = "".join(f" & ~({one})" for one in taken)
            name = self._lark.terminal(f"{_ANY_NAME}{apart}")
            ways.append(self._free(name, self._beyond, types))
        ways = [way for way in ways if way]
        return self._lark.rule(" | ".join(ways)) if ways else ""

    def _free(self, name: str, member: Any, types: frozenset[str]) -> str:
        """An argument of any such name; bare text where anything at all may stand."""
        if member in (True, {}):
            return self._pair(name, {"type": "string"}, _STRING)
        return self._pair(name, member, types)

    def _counted(self, pairs: list[tuple[str, bool]], other: str) -> str:
        """All of them, as many as may be."""
        fixed = sum(required for _, required in pairs)
        room = self._room(len(pairs), fixed, bool(other))
        if room == 0:
            pairs, other = [pair for pair in pairs if pair[1]], ""
        least = self._schema.get("minProperties", 0) - fixed
        if room == 1 and not fixed:
            one = " | ".join(way for way in (*(pair for pair, _ in pairs), other) if way)
            return f"({one})" if least == 1 else f"({one})?"
        if room and len(pairs) > fixed:
            self._refuse("maxProperties")
        if least > 1 or (least == 1 and not (other and not pairs)):
            self._refuse("minProperties")
        parts = [pair if required else f"({pair})?" for pair, required in pairs]
        if other:
            parts.append(f"({other}){{{max(least, 0)},{'' if room is None else room}}}")
        return " ".join(parts)

    def _room(self, listed: int, fixed: int, other: bool) -> int | None:
        """How many may stand beside those that must; None where nothing limits it."""
        most: int | None = self._schema.get("maxProperties")
        return None if most is None or (not other and listed <= most) else most - fixed

    def _text(self, schema: dict[str, Any], depth: int = 0) -> str:
        """A string without quotes, up to what ends it."""
        self._left -= 1
        if self._left > 0 and depth < _DEEPEST and (members := _alternatives(schema)):
            ways = [way for member in members if (way := self._text(member, depth + 1))]
            return f"({' | '.join(ways)})" if ways else ""
        for key in _UNHELD_OF_STRINGS:
            if key in schema:
                self._refuse(key, "a string in the parameters")
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        pattern = schema.get("pattern")
        behind = self._tags.behind
        if "enum" in schema or "const" in schema:
            if pattern is not None:
                self._refuse("pattern", "an enumeration in the parameters")
            fixed = _fixed(schema)
            fit = [
                text for text in fixed if least <= len(text) <= (len(text) if most == "" else most)
            ]
            return f"({' | '.join(map(literal, fit))}) {literal(behind)}" if fit else ""
        if most != "" and least > most:
            return ""
        bounds = f"{{{least},{most}}}" if least or most != "" else "*"
        matching = f" & {self._matching(pattern)}" if pattern is not None else ""
        value = self._lark.terminal(f"/(?s:.){bounds}/{matching}")
        return self._lark.raw_until(value, behind)

    def _matching(self, pattern: str, key: str = "pattern") -> str:
        """A terminal's expression for texts in which the pattern is found."""
        inner = pattern.replace("\n", "\\n").replace("/", "\\/")
        start = "" if inner.startswith("^") else "(?s:.*)"
        stop = "" if inner.endswith("$") and not inner.endswith("\\$") else "(?s:.*)"
        inner = inner.removeprefix("^").removesuffix("$" if not stop else "")
        expression = f"/{start}({inner}){stop}/"
        alone = Lark()
        if not is_possible(alone.text(alone.terminal(expression))):
            self._refuse(key)
        return expression

    def _rooted(self, member: dict[str, Any] | bool) -> dict[str, Any]:
        """A part of the schema as one of its own, with what it may refer to."""
        if isinstance(member, bool):
            return {} if member else {"allOf": [False]}
        if not any(True for _ in _references(member)):
            return dict(member)
        self._spare -= self._size
        if self._spare < 0:
            self._refuse("$ref")
        if self._astray:
            return {**_moved(member), "$defs": {_WHOLE: self._moved}}
        return _with_definitions(member, self._whole)

    def _refuse(self, key: str, where: str = "the parameters") -> NoReturn:
        message = (
            f"'{key}' of {where} of tool '{self._tool}' cannot be enforced in this model's "
            "tool calls."
        )
        raise unsupported(message, "tools")


def _alone(schema: dict[str, Any]) -> str:
    lark = Lark()
    return lark.text(lark.json(schema))


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The strings that a schema of nothing else refers to or lets choose between."""
    members: list[Any] = []
    match [*(schema.keys() - _BESIDE)]:
        case ["$ref"]:
            members = [referred(schema["$ref"], schema)]
        case ["anyOf" | "oneOf" as word]:
            members = schema[word]
        case ["allOf"] if len(schema["allOf"]) == 1:
            members = schema["allOf"]
        case _:
            pass
    made: list[dict[str, Any]] = []
    for member in members:
        if not isinstance(member, dict | bool):
            return []
        if member is not False:
            own = {} if member is True else cast("dict[str, Any]", member)
            made.append({**_with_definitions(own, schema), "type": "string"})
    return made


def _fixed(schema: dict[str, Any]) -> list[str]:
    """The strings that an `enum` and a `const` leave."""
    values: list[Any] = schema.get("enum", [schema.get("const")])
    if "const" in schema:
        values = [value for value in values if value == schema["const"]]
    return [value for value in values if isinstance(value, str)]


def _with_definitions(member: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return {**member, **{key: whole[key] for key in _DEFINITIONS if key in whole}}


def _is_defined(reference: str) -> bool:
    return reference.startswith(("#/$defs/", "#/definitions/"))


def _references(node: object) -> Iterator[str]:
    """Every reference in a schema."""
    if not isinstance(node, dict):
        return
    said = cast("dict[str, Any]", node)
    if "$ref" in said:
        yield said["$ref"]
    for part in _parts(said):
        yield from _references(part)


def _parts(node: dict[str, Any]) -> list[object]:
    parts: list[object] = [node[key] for key in _IN_ONE if key in node]
    for key in _IN_LIST:
        parts += node.get(key, [])
    for key in _IN_MAP:
        parts += node.get(key, {}).values()
    return parts


def _moved(node: Any) -> Any:
    """A schema whose references start from a definition that holds what they started from."""
    if not isinstance(node, dict):
        return node
    made = dict(cast("dict[str, Any]", node))
    reference = made.get("$ref", "")
    if reference == "#" or reference.startswith("#/"):
        made["$ref"] = f"#/$defs/{_WHOLE}{reference[1:]}"
    for key in _IN_ONE:
        if key in made:
            made[key] = _moved(made[key])
    for key in _IN_LIST:
        if key in made:
            made[key] = [_moved(member) for member in made[key]]
    for key in _IN_MAP:
        if key in made:
            made[key] = {name: _moved(member) for name, member in made[key].items()}
    return made
