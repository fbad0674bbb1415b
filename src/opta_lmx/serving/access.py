"""Which models a key may use: asked at the one gate of every call, and where models are listed.

Patterns are held against what is served in the end, so no alias, preset or fuzzy name leads past
them. A name that stands among them as it is, without a `*`, was granted itself: an alias or a
preset may be given to a key without the model that it leads to.
"""

from collections.abc import Iterator

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.engine.residency import Resolver
from opta_lmx.models.catalogue import not_found
from opta_lmx.models.names import split_ref
from opta_lmx.tenancy.access import allows

_ANY = "*"
_SHOWN = 200


class ModelAccess:
    """Says who may use what.

    Args:
        resolver: finds out what a name means.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def check(self, owner: Principal, ref: str) -> None:
        """Refuse a model that is not for this key, in the same words whether it exists or not.

        Args:
            owner: of the key.
            ref: as it was asked for.

        Raises:
            LmxError: FORBIDDEN `model_not_allowed`; MODEL_NOT_FOUND for a name that is for this
                key and means nothing, without a hint at others' models.
        """
        patterns = owner.models
        if patterns is None:
            return
        try:
            served = self._served(ref)
        except LmxError:
            raise (not_found(ref) if allows(patterns, ref) else _refused(ref)) from None
        if not _granted(patterns, ref, served):
            raise _refused(ref)

    def allows(self, owner: Principal, ref: str) -> bool:
        """Whether a name that is listed may be asked for."""
        try:
            self.check(owner, ref)
        except LmxError:
            return False
        return True

    def _served(self, ref: str) -> tuple[str, str]:
        """The id of the model that a name means, and the adapter. Raises MODEL_NOT_FOUND."""
        return self._resolver.canonical(ref), self._resolver.adapter(ref)


def _granted(patterns: tuple[str, ...], ref: str, served: tuple[str, str]) -> bool:
    if ref in patterns and _ANY not in ref:
        return True
    return any(allows(patterns, name) for name in _names(*served))


def _names(model: str, adapter: str) -> Iterator[str]:
    """What a model may be granted as: with or without its backend and its adapter."""
    name, _ = split_ref(model)
    for known in dict.fromkeys((model, name)):
        yield known
        if adapter:
            yield f"{known}:{adapter}"


def _refused(ref: str) -> LmxError:
    return LmxError(
        ErrorKind.FORBIDDEN,
        f"This key may not use the model '{ref[:_SHOWN]}'.",
        code="model_not_allowed",
        param="model",
    )
