"""What a token says, checked: by whom and for whom it was made, until when, what its owner may do.

The signature is somebody else's affair (`tokens`); nothing here is believed without it.
"""

import json
import re
from typing import Any, cast

import msgspec

from opta_lmx.core.principal import Lane, Principal, Scope
from opta_lmx.tenancy.access import matches

LEEWAY_S = 30.0
"""How far the provider's clock may be ahead of ours."""
PREFIX = "oidc:"
"""Names of tokens' owners begin so: no key can be called that."""
MAX_NAME = 128
_SUBJECT = re.compile(rf"[!-~]{{1,{MAX_NAME - len(PREFIX)}}}")
_TYPES = frozenset({"", "jwt", "at+jwt"})
_MAX_VALUES = 256
_LATEST_S = 2.0**40


class Rule(msgspec.Struct, frozen=True):
    """What the owner of a token may do one of whose claims has a value (with `*`)."""

    claim: str
    value: str
    tenant: str = "default"
    scopes: frozenset[Scope] = frozenset({Scope.INFERENCE})
    models: tuple[str, ...] | None = None
    lane: Lane = Lane.INTERACTIVE


class Expected(msgspec.Struct, frozen=True):
    """What tokens must say, and what they then open; without rules it is inference."""

    issuer: str
    audience: str
    rules: tuple[Rule, ...] = ()
    longest_s: float = 86_400.0


class Owned(msgspec.Struct, frozen=True):
    """Whose a good token is, and from when until when, in seconds since the epoch."""

    owner: Principal
    begins_s: float
    ends_s: float

    def opens(self, now_s: float) -> bool:
        """Whether it is good now. Its end is exact; its beginning has a leeway."""
        return self.begins_s - LEEWAY_S <= now_s < self.ends_s


class BadTokenError(Exception):
    """A token that opens nothing. Why is for operators; nothing of the token stands there."""


def is_owner(name: str) -> bool:
    """Whether a name is that of somebody who shows tokens."""
    return name.startswith(PREFIX) and _SUBJECT.fullmatch(name.removeprefix(PREFIX)) is not None


def read_object(data: bytes) -> dict[str, Any]:
    """Read a token's part. Raises BadTokenError; also where one name stands twice."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadTokenError("no JSON") from None
    if not isinstance(found, dict):
        raise BadTokenError("no object")
    return cast("dict[str, Any]", found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadTokenError("a name twice")
    return found


def _no_number(_: str) -> None:
    raise BadTokenError("no number")


def check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    """The algorithm and key id that a token names; keys that it brings along are not looked at.

    Raises:
        BadTokenError: it names no algorithm, is of another kind, or asks for more.
    """
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "")
    if "crit" in header or "b64" in header:
        raise BadTokenError("it asks for what is not known here")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise BadTokenError("another kind of token")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise BadTokenError("no algorithm or no key")
    return algorithm, kid


def check_claims(claims: dict[str, Any], expected: Expected, now_s: float) -> Owned:
    """Whose a token is. Raises BadTokenError for one that is not for here, or not now."""
    if claims.get("iss") != expected.issuer:
        raise BadTokenError("another issuer")
    audience = claims.get("aud")
    named = cast("list[Any]", audience) if isinstance(audience, list) else [audience]
    if expected.audience not in named:
        raise BadTokenError("another audience")
    # It is good only together with the key that it names, which is not asked for here.
    if "cnf" in claims:
        raise BadTokenError("bound to a key of its holder")
    ends_s = _moment(claims, "exp", None)
    made_s = _moment(claims, "iat", now_s)
    begins_s = max(made_s, _moment(claims, "nbf", 0.0))
    if ends_s - made_s > expected.longest_s:
        raise BadTokenError("good for too long")
    owned = Owned(_owner(claims, expected.rules), begins_s, ends_s)
    if not owned.opens(now_s):
        raise BadTokenError("ended, or not begun")
    return owned


def _moment(claims: dict[str, Any], name: str, absent: float | None) -> float:
    value = claims.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadTokenError(f"no {name}")
    if not 0 <= value < _LATEST_S:
        raise BadTokenError(f"no {name}")
    return float(value)


def _owner(claims: dict[str, Any], rules: tuple[Rule, ...]) -> Principal:
    subject = claims.get("sub")
    if not isinstance(subject, str) or _SUBJECT.fullmatch(subject) is None:
        raise BadTokenError("no subject, or none that can be a name")
    rule = Rule("", "") if not rules else next((one for one in rules if _fits(one, claims)), None)
    if rule is None:
        raise BadTokenError("no rule fits")
    return Principal(
        tenant=rule.tenant,
        key=f"{PREFIX}{subject}",
        lane=rule.lane,
        scopes=rule.scopes,
        models=rule.models,
    )


def _fits(rule: Rule, claims: dict[str, Any]) -> bool:
    """Whether the claim is the value, or a list that holds it; `scope` is a list in one text."""
    found = _claim(claims, rule.claim)
    if isinstance(found, str):
        values = found.split(" ") if rule.claim == "scope" else [found]
    elif isinstance(found, list):
        listed = cast("list[Any]", found)[:_MAX_VALUES]
        values = [one for one in listed if isinstance(one, str)]
    else:
        return False
    return any(matches(rule.value, one) for one in values)


def _claim(claims: dict[str, Any], name: str) -> Any:
    """A claim by its name, or by the way to it through objects (`realm_access.roles`)."""
    if name in claims:
        return claims[name]
    first, *rest = name.split(".")
    found = claims.get(first)
    for part in rest:
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, Any]", found).get(part)
    return found
