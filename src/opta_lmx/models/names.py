"""Which names a model may have: one or two plain path components, nothing that can climb."""

import re

from opta_lmx.core.errors import invalid

MAX_PART = 96
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})?")
_ADAPTER = re.compile(_PART)
_BACKENDS = ("mlx", "gguf")


def valid_name(name: str) -> bool:
    """True for `name` or `org/name` in letters, digits, dot, dash and underscore."""
    parts = name.split("/")
    return _NAME.fullmatch(name) is not None and all(len(part) <= MAX_PART for part in parts)


def checked_name(name: str) -> str:
    """Return `name`, or raise LmxError (code `invalid_model_name`, param `model`)."""
    if not valid_name(name):
        raise invalid(
            f"'{name[:120]}' is no model name: use letters, digits, '.', '_' and '-', with at "
            "most one '/'.",
            param="model",
            code="invalid_model_name",
        )
    return name


def suggested_name(text: str) -> str:
    """The nearest valid name to a file's or folder's name."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
    return checked_name(cleaned[:MAX_PART] or "model")


def flat(name: str) -> str:
    """A single path component for a checked name, the same for names differing in case only."""
    return name.lower().replace("/", "+")


def split_ref(ref: str) -> tuple[str, str | None]:
    """Split `NAME[:BACKEND]` into the model's name and the backend asked for, if any."""
    name, _, backend = ref.rpartition(":")
    if name and backend in _BACKENDS:
        return name, backend
    return ref, None


def split_adapter(ref: str) -> tuple[str, str]:
    """Split `NAME[:BACKEND]:ADAPTER` into what comes before the adapter and its name.

    The name is empty where the last part cannot be an adapter's.
    """
    rest, _, adapter = ref.rpartition(":")
    plain = len(adapter) <= MAX_PART and _ADAPTER.fullmatch(adapter)
    if rest and plain and adapter.lower() not in _BACKENDS:
        return rest, adapter
    return ref, ""
