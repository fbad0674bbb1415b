"""What cannot be held is refused before a model is asked, by its place, and in little time."""

import time
from contextlib import suppress
from typing import Any

import pytest

from opta_lmx.codec.constraints import check
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, Prompt, Tool, ToolChoice

STRING = {"type": "string"}
OUTPUT = "response_format.json_schema.schema"


def refused(schema: Any) -> LmxError:
    request = GenerationRequest(model="m", prompt=Prompt(), output=JsonOutput(schema))
    with pytest.raises(LmxError) as caught:
        check(request, output=OUTPUT, tools="tools")
    return caught.value


def judged(schema: Any) -> None:
    request = GenerationRequest(model="m", prompt=Prompt(), output=JsonOutput(schema))
    check(request, output=OUTPUT, tools="tools")


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"not": STRING}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": STRING}, "contains"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"dependentSchemas": {"a": {}}}, "dependentSchemas"),
        ({"propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"$ref": "https://example.com/schema"}, "$ref"),
        ({"type": "string", "format": "regex"}, "format"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"properties": {"a": {"items": [{"not": {}}]}}}, "properties.a.prefixItems.0.not"),
        ({"anyOf": [STRING, {"$defs": {"x": {"not": {}}}}]}, "anyOf.1.$defs.x.not"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"patternProperties": {"^a": STRING, "^ab": {"type": "null"}}}, "patternProperties"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keywords_that_cannot_be_enforced(schema: dict[str, Any], place: str) -> None:
    error = refused(schema)
    assert error.kind is ErrorKind.UNSUPPORTED_PARAMETER
    assert error.param == f"{OUTPUT}.{place}"


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"allOf": [STRING, {"type": "number"}]},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "string", "const": 1},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "array", "items": False, "minItems": 1},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{"anyOf": [{"$ref": "#"}]}], "minItems": 1},
    ],
)
def test_schemas_that_nothing_fits(schema: Any) -> None:
    error = refused(schema)
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, OUTPUT)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "strnig"}, ".type"),
        ({"type": 3}, ".type"),
        ({"properties": []}, ".properties"),
        ({"properties": {"a": "string"}}, ".properties.a"),
        ({"anyOf": {}}, ".anyOf"),
        ({"enum": []}, ".enum"),
        ({"minLength": -1}, ".minLength"),
        ({"maxItems": "3"}, ".maxItems"),
        ({"pattern": 3}, ".pattern"),
        ({"pattern": "("}, ""),
        ({"$ref": "#/$defs/missing"}, ""),
        ({"required": "a", "type": "object"}, ".required"),
        ({"type": "object", "required": [1]}, ".required"),
    ],
)
def test_what_is_no_schema(schema: Any, place: str) -> None:
    error = refused(schema)
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, OUTPUT + place)


def test_values_that_ask_for_nothing_are_no_reason() -> None:
    schema = {
        "type": "array",
        "uniqueItems": False,
        "contains": {},
        "unevaluatedItems": True,
        "items": {"type": "object", "propertyNames": True, "dependentRequired": {}, "not": False},
    }
    request = GenerationRequest(model="m", prompt=Prompt(), output=JsonOutput(schema))
    check(request, output=OUTPUT, tools="tools")


def _tools(*parameters: dict[str, Any], strict: bool = False) -> Prompt:
    made = (Tool(f"t{at}", parameters=each, strict=strict) for at, each in enumerate(parameters))
    return Prompt(tools=tuple(made))


def test_tools_are_checked_where_they_are_held() -> None:
    prompt = _tools({}, {"type": "object", "properties": {"a": {"not": {}}}})
    request = GenerationRequest(model="m", prompt=prompt)
    check(request, output=OUTPUT, tools="tools")
    held = (
        GenerationRequest(model="m", prompt=prompt, tool_choice=ToolChoice("required")),
        GenerationRequest(
            model="m", prompt=_tools(*(t.parameters for t in prompt.tools), strict=True)
        ),
    )
    for request in held:
        with pytest.raises(LmxError) as caught:
            check(request, output=OUTPUT, tools="tools")
        assert caught.value.param == "tools.1.function.parameters.properties.a.not"
        with pytest.raises(LmxError) as caught:
            check(request, output=OUTPUT, tools="tools.{}.input_schema")
        assert caught.value.param == "tools.1.input_schema.properties.a.not"
    named = GenerationRequest(model="m", prompt=prompt, tool_choice=ToolChoice("required", "t0"))
    check(named, output=OUTPUT, tools="tools")


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("required", "other")])
def test_a_choice_without_that_tool(choice: ToolChoice) -> None:
    tools = _tools({}) if choice.name else Prompt()
    request = GenerationRequest(model="m", prompt=tools, tool_choice=choice)
    with pytest.raises(LmxError) as caught:
        check(request, output=OUTPUT, tools="tools")
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, "tool_choice")


def test_arguments_are_objects() -> None:
    prompt = _tools({"type": "string"}, strict=True)
    with pytest.raises(LmxError) as caught:
        check(GenerationRequest(model="m", prompt=prompt), output=OUTPUT, tools="tools")
    assert caught.value.param == "tools.0.function.parameters.type"


def _nested(kind: str, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}} if kind == "properties" else {kind: [schema]}
    return schema


def bombs() -> list[Any]:
    doubling: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)
    }
    doubling["d40"] = {"type": "null"}
    wide = {f"k{n}": {"type": "string"} for n in range(1000)}
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1500)}
    chain["d1500"] = {"type": "null"}
    unions = [{"properties": {f"k{n}": {"const": n}}} for n in range(60)]
    patterns = (
        *("(a+)+$", "(a|a)*b", "(a|aa)+$", "(.*a){25}", "(.*){1,64}(.*){1,64}x", "((a*)*)*$"),
        *("^(a?){500}a{500}$", "(x+x+)+y", "[a-z]{1,5000}", "(a{1,100}){1,100}", "(\\w+\\s?)*$"),
        *("^(([a-z])+.)+[A-Z]([a-z])+$", ".*.*.*.*.*.*.*=.*", "(a{0,1000}b{0,1000}){0,1000}"),
        *("\\p{L}{1,3000}", "((((((((((a*)*)*)*)*)*)*)*)*)*", "(?:a|b|c|d|e){0,9999}"),
        *(f"(a{{1,{n}}}){{1,{n}}}" for n in (10, 30, 200, 1000)),
        *(f"(.*{letter}){{{n}}}" for letter in "ab" for n in (5, 10, 40, 200)),
        *("|".join(f"a{{{n}}}" for n in range(size)) for size in (20, 100, 300)),
    )
    return [
        *({"type": "string", "pattern": pattern} for pattern in patterns),
        *({"type": "string", "pattern": f"^{p}$", "maxLength": 90_000} for p in patterns),
        *({"type": "object", "patternProperties": {p: {}}} for p in patterns[:12]),
        {"$ref": "#/$defs/d0", "$defs": doubling},
        {"$ref": "#/$defs/d0", "$defs": chain},
        {"type": "object", "properties": wide},
        {"allOf": [{"properties": wide}] * 20},
        {"allOf": [{"anyOf": unions}] * 4},
        {"anyOf": [{"anyOf": unions}] * 50},
        {"oneOf": unions * 10},
        {"enum": list(range(4900))},
        {"enum": list(range(100_000))},
        {"enum": ["x" * 100] * 4000},
        {"const": "x" * 200_000},
        {"const": "x" * 2_000_000},
        {"type": "string", "minLength": 99_999},
        {"type": "string", "maxLength": 10**30},
        {"type": "array", "minItems": 99_999},
        {"type": "array", "minItems": 10**18},
        {"type": "array", "items": {"type": "array", "minItems": 50_000}, "minItems": 50_000},
        {"type": "array", "prefixItems": [{"type": "null"}] * 4000, "maxItems": 90_000},
        {"type": "object", "additionalProperties": True, "maxProperties": 90_000},
        {"type": "number", "multipleOf": 1e-300},
        {"type": "integer", "multipleOf": 999_999_937},
        {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
        {"type": "number", "minimum": 1e-300, "maximum": 1.1e-300},
        *(_nested(kind, depth) for kind in ("properties", "allOf", "anyOf") for depth in (60, 500)),
        {"type": "object", "required": [f"r{n}" for n in range(1000)]},
        {"x-guidance": {"lenient": True}, "type": "string"},
        {"properties": {'\n// mark "<x>"': {"type": "null"}}},
        {"$defs": {"\ud7ff/~": {"$ref": "#/$defs/%ED%9F%BF~1~0"}}, "type": "null"},
    ]


@pytest.mark.parametrize("key", ["properties", "patternProperties", "required"])
def test_objects_of_very_many_names_are_refused(key: str) -> None:
    names = [f"name_{n}" for n in range(1001)]
    members: Any = names if key == "required" else dict.fromkeys(names, STRING)
    error = refused({"items": {"type": "object", key: members}})
    assert error.param == f"{OUTPUT}.items.{key}"
    assert "1000" in error.message


@pytest.mark.parametrize("steps", [(5_001,), (700, 43.01), (10**400,), (1e300,)])
def test_steps_too_long_to_be_counted_are_refused(steps: tuple[float, ...]) -> None:
    members = {f"m{n}": {"type": "number", "multipleOf": step} for n, step in enumerate(steps)}
    error = refused({"type": "object", "properties": members})
    assert error.code == "unsupported_parameter"
    assert error.param == f"{OUTPUT}.properties.m{len(steps) - 1}.multipleOf"


def test_steps_that_must_hold_together_are_counted_as_one() -> None:
    steps = [{"type": "integer", "multipleOf": step} for step in (251, 241)]
    assert refused({"allOf": steps}).code == "unsupported_parameter"
    own = {"properties": {"b": steps[0], "a": {"$ref": "#/properties/b", "multipleOf": 241}}}
    assert refused({"type": "object", **own}).code == "unsupported_parameter"
    judged({"type": "object", "properties": {"b": steps[0], "a": steps[1]}})
    judged({"allOf": [{"type": "integer", "multipleOf": step} for step in (100, 7, 0.01)]})


def test_hostile_schemas_take_little_time() -> None:
    hostile = bombs()
    assert len(hostile) >= 100
    slow: list[tuple[float, str]] = []
    for bomb in hostile:
        began = time.process_time()
        request = GenerationRequest(model="m", prompt=Prompt(), output=JsonOutput(bomb))
        with suppress(LmxError):
            check(request, output=OUTPUT, tools="tools")
        took = time.process_time() - began
        if took > 0.5:
            slow.append((took, str(bomb)[:80]))
    assert not slow
