"""What a key may be made with, and that nobody grants more than is theirs."""

import math
import re
from collections.abc import Iterable

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Lane, Principal, Scope
from opta_lmx.tenancy.access import allows

LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What names of keys and tenants look like."""
MAX_MODELS = 64
MAX_MODEL_CHARS = 512
MAX_NOTE_CHARS = 200
WEIGHTS = (0.01, 100.0)
MAX_COUNT = 2**63 - 1
_LABEL = re.compile(LABEL.removesuffix("$"))


def scopes_of(words: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names. Raises INVALID_REQUEST naming those that exist."""
    try:
        return frozenset(Scope(word) for word in words)
    except ValueError:
        known = ", ".join(Scope)
        raise invalid(f"A scope is one of: {known}.", param="scopes") from None


def lane_of(word: str) -> Lane:
    """The lane of this name. Raises INVALID_REQUEST naming those that exist."""
    for lane in Lane:
        if lane.name.lower() == word:
            return lane
    known = ", ".join(lane.name.lower() for lane in Lane)
    raise invalid(f"A lane is one of: {known}.", param="lane")


class Maker(msgspec.Struct, frozen=True):
    """Who asks for a key over the network: what is theirs, and when their own key ends.

    `ends_ms` in UTC milliseconds, None for never. `anonymous`: no key was shown. The scope
    `admin` is machine-wide: whoever has it makes and ends keys of every tenant.
    """

    principal: Principal
    ends_ms: int | None = None
    anonymous: bool = False


def check_grant(owner: Principal, note: str) -> None:
    """Refuse what no key may have.

    Raises:
        LmxError: INVALID_REQUEST naming the field.
    """
    for param, text in (("name", owner.key), ("tenant", owner.tenant)):
        if _LABEL.fullmatch(text) is None:
            raise invalid(
                f"'{param}' takes up to 64 letters, digits, '.', '_' and '-', and begins with "
                "one of the first two.",
                param=param,
            )
    if not owner.scopes:
        raise invalid("A key needs at least one scope.", param="scopes")
    if not (math.isfinite(owner.weight) and WEIGHTS[0] <= owner.weight <= WEIGHTS[1]):
        raise invalid("'weight' must be between 0.01 and 100.", param="weight")
    for param, count in _limits(owner).items():
        if count is not None and not 1 <= count <= MAX_COUNT:
            raise invalid(f"'{param}' must be at least 1.", param=param)
    _check_models(owner.models)
    if len(note) > MAX_NOTE_CHARS or not note.isprintable():
        raise invalid(f"'note' takes up to {MAX_NOTE_CHARS} printable characters.", param="note")


def _check_models(models: tuple[str, ...] | None) -> None:
    if models is None:
        return
    # None would be every model and an empty list no model: the latter is no honest wish.
    sound = all(0 < len(name) <= MAX_MODEL_CHARS and name.isprintable() for name in models)
    if not (0 < len(models) <= MAX_MODELS and sound):
        raise invalid(
            f"'models' takes 1 to {MAX_MODELS} names of up to {MAX_MODEL_CHARS} printable "
            "characters; leave it out for every model.",
            param="models",
        )


def check_expiry(maker: Maker, ends_ms: int | None) -> None:
    """Refuse an end later than the maker's own. Raises FORBIDDEN `expiry_not_grantable`."""
    if maker.ends_ms is not None and (ends_ms is None or ends_ms > maker.ends_ms):
        raise LmxError(
            ErrorKind.FORBIDDEN,
            "A key that ends grants none that ends later.",
            code="expiry_not_grantable",
            param="expires",
        )


def check_maker(maker: Principal, owner: Principal) -> None:
    """Refuse a key that may do what its maker may not.

    Raises:
        LmxError: FORBIDDEN `scope_not_grantable`, `limits_not_grantable` or
            `model_not_grantable`. Tenants bound nobody.
    """
    lacking = ", ".join(scope for scope in Scope if scope in owner.scopes - maker.scopes)
    if lacking:
        raise LmxError(
            ErrorKind.FORBIDDEN,
            f"A key without these scopes cannot grant them: {lacking}.",
            code="scope_not_grantable",
            param="scopes",
        )
    _check_limits(maker, owner)
    if maker.models is None:
        return
    if owner.models is None or not all(_holds(maker.models, one) for one in owner.models):
        raise LmxError(
            ErrorKind.FORBIDDEN,
            "A key that may use some models only grants the same names, or patterns with a '*' "
            "that name no others.",
            code="model_not_grantable",
            param="models",
        )


def _check_limits(maker: Principal, owner: Principal) -> None:
    wider = ["lane"] if owner.lane < maker.lane else []
    mine, theirs = _limits(maker), _limits(owner)
    for param, bound in mine.items():
        asked = theirs[param]
        if bound is not None and (asked is None or asked > bound):
            wider.append(param)
    if wider:
        raise LmxError(
            ErrorKind.FORBIDDEN,
            f"A key grants no wider limits than its own: {', '.join(wider)}.",
            code="limits_not_grantable",
            param=wider[0],
        )


def _limits(owner: Principal) -> dict[str, int | None]:
    return {"max_running": owner.max_running, **msgspec.structs.asdict(owner.budgets)}


def _holds(mine: tuple[str, ...], wanted: str) -> bool:
    """Whether whoever may use `mine` may grant `wanted`.

    A whole name also stands for the model behind an alias of that name, a pattern never does:
    so a pattern grants narrower patterns, and a whole name is granted by itself alone.
    """
    return wanted in mine or ("*" in wanted and allows(mine, wanted))
