"""Which stored model a client means: its name, an alias, or something close enough.

Exact names come first, then aliases, then the same without regard to case, with a provider's
prefix dropped, and with or without the suffixes that files carry (`-Q4_K_M`, `-4bit`, `.gguf`).
The first of these steps that finds anything decides; two findings in one step are ambiguous.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.catalogue import not_found
from opta_lmx.models.names import split_adapter, split_ref

MAX_REF = 512
"""Longer than any name, alias or file of a model."""
MAX_LISTED = 10
MAX_PROVIDERS = 3
"""Parts that may stand before a model's own name: `openrouter/vendor/org/model` has two."""
_MAX_SHOWN = 200
_MAX_NEAR = 3

_MARK = re.compile(r"[-._@](gguf|mlx)$")
_QUANT = re.compile(
    r"[-._@]((?:(?:ud|i1)[-_])?"
    r"(?:i?q[1-8](?:_[0-9a-z]+)*|tq[12]_0|(?:int|fp|w)[48]|[2-8]bit(?:-dwq)?|(?:mx|nv)fp[48]"
    r"|b?f16|fp16|fp?32))$"
)
_WIDTH = re.compile(r"(?:tq|i?q|int|bf|fp|f|w)?(\d+)")


class Known(msgspec.Struct, frozen=True):
    """A stored model as far as its name matters; `quantisation` is what its files say.

    `kind` is what it is for, as in `ModelInfo`.
    """

    name: str
    quantisation: str = ""
    format: str = ""
    kind: str = "chat"


class Reference(msgspec.Struct, frozen=True):
    """A stored model's name, and the backend and the adapter that were asked for, if any."""

    name: str
    backend: str | None = None
    adapter: str = ""


class _Parts(msgspec.Struct, frozen=True):
    """A name taken apart: all lower case, `quant` and `format` empty where it says nothing."""

    org: str
    base: str
    quant: str
    format: str


def resolve(ref: str, known: Sequence[Known], aliases: Mapping[str, str]) -> Reference:
    """The one model that `ref` means.

    Args:
        ref: `NAME[:BACKEND][:ADAPTER]`, as a client writes it; whether there is such an adapter
            is not known here.
        known: the stored models.
        aliases: other names, each for a reference to a stored model.

    Raises:
        LmxError: MODEL_NOT_FOUND, with code `model_ambiguous` where several fit equally well.
    """
    if len(ref) > MAX_REF:
        raise not_found(ref)
    found, backend, adapter = _search(ref, known, aliases)
    target = aliases.get(found[0]) if len(found) == 1 else None
    if target is not None and found[0] not in {one.name for one in known}:
        found, of_alias, its_adapter = _search(target, known, {})
        backend, adapter = backend or of_alias, adapter or its_adapter
    if not found:
        raise _unknown(ref, known)
    if len(found) > 1:
        raise _ambiguous(ref, found)
    return Reference(found[0], backend, adapter)


def _search(
    ref: str, known: Sequence[Known], aliases: Mapping[str, str]
) -> tuple[list[str], str | None, str]:
    """What may be meant, the backend, and the adapter where nothing has the whole name."""
    name, backend = split_ref(ref)
    found = _match(name, known, aliases)
    if found or backend is not None:
        return found, backend, ""
    rest, adapter = split_adapter(ref)
    if not adapter:
        return [], None, ""
    name, backend = split_ref(rest)
    return _match(name, known, aliases), backend, adapter


def bits_of(quantisation: str) -> int | None:
    """Nominal bits of a weight in a quantisation (`Q4_K_M`: 4, `bf16`: 16); None if unknown."""
    name = quantisation.lower().removeprefix("ud-").removeprefix("i1-")
    for prefix in ("mxfp", "nvfp"):
        name = name.replace(prefix, "q")
    found = _WIDTH.match(name)
    return int(found[1]) if found and 1 <= int(found[1]) <= 64 else None


def _match(name: str, known: Sequence[Known], aliases: Mapping[str, str]) -> list[str]:
    """Names of models or aliases that fit at the first step that fits any, sorted."""
    names = {one.name for one in known}
    steps: list[Callable[[str], set[str]]] = [
        lambda form: {form} & names,
        lambda form: {form} & aliases.keys(),
        lambda form: {one for one in names if one.lower() == form.lower()},
        lambda form: {one for one in aliases if one.lower() == form.lower()},
        lambda form: _alike(_taken_apart(form), known),
    ]
    given = list(forms(name, known))
    for step in steps:
        for form in given:
            if found := step(form):
                return sorted(found)
    return []


def forms(name: str, known: Sequence[Known]) -> Iterator[str]:
    """The name, then without its first parts, as long as these are no org of a stored model."""
    orgs = {one.name.partition("/")[0].lower() for one in known if "/" in one.name}
    yield name
    for _ in range(MAX_PROVIDERS):
        head, _, name = name.partition("/")
        if not name or head.lower() in orgs:
            return
        yield name


def _alike(wanted: _Parts, known: Sequence[Known]) -> set[str]:
    """Models of the wanted base and org, narrowed by what is said of quantisation and format."""
    parts = {one.name: (_own_parts(one.name), one) for one in known}
    fits = {
        name
        for name, (own, _) in parts.items()
        if own.base == wanted.base and wanted.org in ("", own.org)
    }
    if wanted.format:
        narrowed = {n for n in fits if wanted.format in (parts[n][0].format, parts[n][1].format)}
        fits = narrowed or fits
    if not wanted.quant:
        return fits
    quants = {name: {parts[name][0].quant, parts[name][1].quantisation.lower()} for name in fits}
    exact = {name for name in fits if wanted.quant in quants[name]}
    width = bits_of(wanted.quant)
    # Another quantisation of the same width may stand in; a wider or narrower one may not.
    return exact or {n for n in fits if width in {bits_of(quant) for quant in quants[n] if quant}}


@functools.lru_cache(maxsize=4096)
def _own_parts(name: str) -> _Parts:
    """Those of a stored model, whose name is looked at for every reference that is not exact."""
    return _taken_apart(name)


def _taken_apart(name: str) -> _Parts:
    org, _, base = name.lower().rpartition("/")
    quant = file_format = ""
    while True:
        if mark := _MARK.search(base):
            file_format = file_format or mark[1]
        elif not quant and (mark := _QUANT.search(base)):
            quant = mark[1]
        else:
            break
        if not mark.start():
            break
        base = base[: mark.start()]
    return _Parts(org, base.replace("_", "-"), quant, file_format)


def _unknown(ref: str, known: Sequence[Known]) -> LmxError:
    names = {one.name.lower(): one.name for one in known}
    shown = ref[:_MAX_SHOWN].lower()
    near = difflib.get_close_matches(shown, names, n=_MAX_NEAR)
    base = _taken_apart(shown).base
    near += [lower for lower in sorted(names) if _own_parts(lower).base == base]
    hints = [f"'{names[lower]}'" for lower in dict.fromkeys(near)][:_MAX_NEAR]
    error = not_found(ref)
    if hints:
        error = LmxError(
            error.kind, f"{error.message} Did you mean {' or '.join(hints)}?", param=error.param
        )
    return error


def _ambiguous(ref: str, found: list[str]) -> LmxError:
    listed = ", ".join(found[:MAX_LISTED])
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return LmxError(
        ErrorKind.MODEL_NOT_FOUND,
        f"The model '{ref[:_MAX_SHOWN]}' is ambiguous: it could be {listed}{more}. "
        "Ask for one of them by its full name.",
        code="model_ambiguous",
        param="model",
    )
