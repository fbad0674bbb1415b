"""Every field of a client's request type, with a request that uses it, from its annotations."""

import importlib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Required, Union

from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

MAX_DEPTH = 5


class Found(NamedTuple):
    """A field by its dotted path, and the request fields that hold it and little else."""

    path: str
    probe: dict[str, Any]


def load(place: str) -> type:
    """The type at `package.module:Name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def fields(request: type) -> list[Found]:
    """All fields in order, in each type that has one: union members and list items included."""
    found = (Found(path, holder) for path, holder in _walk(request, (), MAX_DEPTH))
    return sorted(found, key=lambda one: one.path)


def _walk(holder: Any, above: tuple[str, ...], depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, value of the outermost field's holder) for every field below `holder`."""
    if depth == 0:
        return
    for name, hint in _members(holder).items():
        path = (*above, name)
        least = sample(holder)
        yield ".".join(path), {**least, name: sample(hint)}
        for inner, wrap in _objects(hint):
            for below, value in _walk(inner, path, depth - 1):
                yield below, {**least, name: wrap(value)}


def _is_object(hint: Any) -> bool:
    return is_typeddict(hint) or (isinstance(hint, type) and issubclass(hint, BaseModel))


def _members(holder: Any) -> dict[str, Any]:
    """Name and type of every field."""
    if is_typeddict(holder):
        return get_type_hints(holder)
    named = holder.model_fields.items()
    return {field.alias or name: field.annotation for name, field in named}


def _needed(holder: Any) -> dict[str, Any]:
    """Name and type of the fields that must be given."""
    if not is_typeddict(holder):
        needed = {name for name, field in holder.model_fields.items() if field.is_required()}
        return {name: hint for name, hint in _members(holder).items() if name in needed}
    # Not `__required_keys__`: it cannot see `Required` in annotations that are strings.
    hints = get_type_hints(holder, include_extras=True)
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is Required}


def _objects(hint: Any) -> Iterator[tuple[Any, Any]]:
    """The objects in a hint, each with what makes a value of the hint from one of its."""
    hint = _bare(hint)
    if _is_object(hint):
        yield hint, lambda value: value
        return
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            yield from _objects(option)
    elif _is_list(origin) and arguments:
        for inner, wrap in _objects(arguments[0]):
            yield inner, lambda value, wrap=wrap: [wrap(value)]


def sample(hint: Any) -> Any:
    """A small value of a type; of objects only what is required."""
    hint = _bare(hint)
    if _is_object(hint):
        needed = _needed(hint)
        return {name: sample(needed[name]) for name in sorted(needed)}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        told = [option for option in options if not _is_map(typing.get_origin(option))]
        return sample((told or options)[0])
    if origin is Literal:
        return arguments[0]
    if _is_list(origin):
        return [sample(arguments[0])]
    if _is_map(origin) or hint is dict:
        return {}
    simple = {str: "x", int: 1, float: 0.5, bool: True}
    return simple.get(hint, {})


def _is_map(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_list(origin: Any) -> bool:
    listed = isinstance(origin, type) and issubclass(origin, typing.Iterable)
    return listed and not _is_map(origin)


def _bare(hint: Any) -> Any:
    while typing.get_origin(hint) in (Annotated, Required, NotRequired):
        hint = typing.get_args(hint)[0]
    return hint
