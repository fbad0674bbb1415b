"""The keys of an identity provider (JWKS): which of them may check which signatures."""

from typing import Any, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

MAX_KEYS = 64
MAX_KID = 256
RSA_BITS = (2048, 8192)
"""Shorter ones are weak; checking with longer ones takes long."""
_MAX_EXPONENT = 2**32
_MAX_FIELD = 2048
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_FITTING: dict[tuple[str, object], frozenset[str]] = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
"""What a kind of key and its curve can check; all others can check nothing."""
_PRIVATE = ("d", "p", "q", "k")

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class ProviderError(Exception):
    """The provider's keys could not be had; the text says why, for operators."""


class Key(msgspec.Struct, frozen=True):
    """A public key, and the algorithms whose signatures it may check."""

    public: PublicKey
    algorithms: frozenset[str]


class KeySet(msgspec.Struct, frozen=True):
    """Keys by their id; `alone` is the only one, for tokens that name none."""

    named: dict[str, Key] = {}
    alone: Key | None = None

    def __len__(self) -> int:
        unnamed = self.alone is not None and not self.named
        return len(self.named) + unnamed

    @property
    def algorithms(self) -> frozenset[str]:
        """All that can be checked with some key."""
        held = [*self.named.values(), *([] if self.alone is None else [self.alone])]
        return frozenset(one for key in held for one in key.algorithms)

    def find(self, kid: str | None) -> Key | None:
        """The key that a token names, or the only one where it names none."""
        return self.alone if kid is None else self.named.get(kid)


def parse_keys(document: dict[str, Any]) -> KeySet:
    """The keys of a set that can check signatures; all others are passed over.

    An id that two of them have stands for neither.

    Raises:
        ProviderError: it is no set, has more than `MAX_KEYS`, or none that can be used.
    """
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise ProviderError("its keys are no set of keys")
    entries = cast("list[Any]", listed)
    if len(entries) > MAX_KEYS:
        raise ProviderError(f"it has more than {MAX_KEYS} keys")
    usable = [(_kid(entry), key) for entry in entries if (key := _usable(entry)) is not None]
    ids = [kid for kid, _ in usable]
    named = {kid: key for kid, key in usable if kid is not None and ids.count(kid) == 1}
    alone = usable[0][1] if len(usable) == 1 else None
    if not named and alone is None:
        raise ProviderError("it has no key that can be used")
    return KeySet(named, alone)


def _kid(entry: dict[str, Any]) -> str | None:
    return entry.get("kid")


def _usable(entry: object) -> Key | None:
    if not isinstance(entry, dict):
        return None
    fields = cast("dict[str, Any]", entry)
    algorithms = _algorithms(fields)
    if not algorithms or not _is_for_signatures(fields) or not _is_bounded(fields):
        return None
    try:
        public = PyJWK(fields, min(algorithms)).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if isinstance(public, RSAPublicKey):
        return Key(public, algorithms) if _is_sound(public) else None
    if isinstance(public, EllipticCurvePublicKey | Ed25519PublicKey):
        return Key(public, algorithms)
    return None


def _algorithms(fields: dict[str, Any]) -> frozenset[str]:
    """What the key names, if its kind can check that; all that its kind can where it does not."""
    kind, curve, named = fields.get("kty"), fields.get("crv"), fields.get("alg")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return frozenset()
    fitting = _RSA if kind == "RSA" else _FITTING.get((kind, curve), frozenset[str]())
    return fitting if named is None else fitting & {str(named)}


def _is_for_signatures(fields: dict[str, Any]) -> bool:
    """Whether it is a public key for checking. A private one that is published is everybody's."""
    uses = fields.get("key_ops", ["verify"])
    checks = isinstance(uses, list) and "verify" in uses
    public = not any(name in fields for name in _PRIVATE)
    return fields.get("use", "sig") == "sig" and checks and public


def _is_bounded(fields: dict[str, Any]) -> bool:
    kid = fields.get("kid")
    named = kid is None or (isinstance(kid, str) and 0 < len(kid) <= MAX_KID)
    texts = (value for value in map(fields.get, ("n", "e", "x", "y")) if value is not None)
    return named and all(isinstance(one, str) and len(one) <= _MAX_FIELD for one in texts)


def _is_sound(key: RSAPublicKey) -> bool:
    least, most = RSA_BITS
    return least <= key.key_size <= most and key.public_numbers().e < _MAX_EXPONENT
