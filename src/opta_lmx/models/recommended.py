"""Models worth having, by the memory they need: facts kept as data, nothing measured here."""

import tomllib
from collections.abc import Collection
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from opta_lmx.models.description import Format, ModelKind


class Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where each figure of a model is from, in words.

    What a download really brings is told before it begins, from the hub's own listing.
    """

    size: str
    context: str
    licence: str


class Recommended(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model; sizes in bytes.

    Attributes:
        ref: what to pull.
        title: its makers' name for it.
        size_bytes: of its files, as its publisher lists them, rounded.
        context: the window it was made for, in tokens.
        languages: `en` or `many`.
        sources: where its size, window and licence are from.
    """

    ref: str
    title: str
    format: Format
    kind: ModelKind
    size_bytes: int
    parameters: str
    quantisation: str
    licence: str
    context: int
    languages: Literal["en", "many"]
    sources: Sources

    @property
    def memory_bytes(self) -> int:
        """What it takes loaded with a small window: its files and a quarter more."""
        return self.size_bytes * 5 // 4


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[Recommended, ...]


@cache
def recommended() -> tuple[Recommended, ...]:
    """All of them, the smallest first."""
    text = (resources.files("opta_lmx.models") / "data" / "recommended.toml").read_text("utf-8")
    models = msgspec.convert(tomllib.loads(text), type=_Catalogue).models
    return tuple(sorted(models, key=lambda model: model.size_bytes))


def best_for(room: int, formats: Collection[str] = ("mlx", "gguf")) -> Recommended | None:
    """The largest model that makes text, has one of the formats, and fits into `room` bytes."""
    fitting = [
        one
        for one in recommended()
        if one.kind == "chat" and one.format in formats and one.memory_bytes <= room
    ]
    return fitting[-1] if fitting else None
