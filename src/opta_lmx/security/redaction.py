"""Secrets do not appear in logs, and nothing in them moves a terminal's cursor."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

MASK = "***"
SHORTEST_KNOWN = 6
"""Characters; a shorter secret stands in too many innocent words to be looked for."""
_CUT = 64

_NAMES = r"(?:proxy-)?authorization|x[-_](?:api|admin)[-_]key|api[-_]key|(?:set-)?cookie"
_NAME = re.compile(rf"{_NAMES}|sec-websocket-protocol", re.IGNORECASE)
_CHARS = "A-Za-z0-9_-"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Our own keys; the id stays, by which an operator knows which it was. Cut ones only where
    # they begin a word: names of metrics hold "lmx_", too.
    (re.compile(rf"(lmx_[A-Za-z0-9]{{8}}_)[{_CHARS}]{{32,}}"), rf"\1{MASK}"),
    (re.compile(rf"(?<![{_CHARS}])(lmx_[A-Za-z0-9]{{8}}_)[{_CHARS}]+"), rf"\1{MASK}"),
    (re.compile(r"(lmx-key\.)[^\s\"'\\,;]+"), rf"\1{MASK}"),
    # Tokens (JWT), also cut ones: all that are taken begin so.
    (re.compile(rf"eyJ[{_CHARS}]{{6,}}(?:\.[{_CHARS}]*)*"), f"eyJ{MASK}"),
    (re.compile(r"\b(bearer|basic)(\s+)[^\s\"'\\,;]{6,}", re.IGNORECASE), rf"\1\2{MASK}"),
    # A header with its value, as text (`X-Api-Key: k`), JSON or a pair of Python's bytes.
    (
        re.compile(
            rf"((?<![{_CHARS}])(?:{_NAMES})(?:\s*[:=]|\\?[\"']\s*[:=,])\s*(?:b?\\?[\"'])?"
            r"(?:(?:bearer|basic)\s+)?)[^\s\"'\\,;)\]}]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)
_KEYS = _PATTERNS[:4]
"""Those that know a key by its looks."""
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROLS_IN_TRACES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_TRACES = frozenset({"exception", "stack"})


class Redactor:
    """Masks secrets; a processor of structlog, before the renderer and again behind it.

    Args:
        secrets: known ones, masked wherever they stand, whatever they look like.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= SHORTEST_KNOWN}
        # Names of fields are cut before they are told.
        known |= {secret[:_CUT] for secret in known}
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def mask(self, text: str) -> str:
        """Return the text without keys and without the values of headers that carry them."""
        return self._masked(text, _PATTERNS)

    def mask_keys(self, text: str) -> str:
        """Return the text without keys; what only stands where one may is left."""
        return self._masked(text, _KEYS)

    def _masked(self, text: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern, instead in patterns:
            text = pattern.sub(instead, text)
        return text

    def __call__(self, logger: Any, method: str, event: Any) -> Any:
        """Mask the fields of a log line, or the line itself once it is rendered."""
        del logger, method
        return self.mask(event) if isinstance(event, str) else self._fields(event)

    def _fields(self, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        return {name: self._value(name, value) for name, value in fields.items()}

    def _value(self, name: object, value: object) -> object:
        if isinstance(name, str) and _NAME.fullmatch(name):
            return MASK
        if isinstance(value, str):
            controls = _CONTROLS_IN_TRACES if name in _TRACES else _CONTROLS
            return controls.sub(_escaped, self.mask(value))
        if isinstance(value, Mapping):
            return self._fields(cast("Mapping[Any, Any]", value))
        if isinstance(value, list | tuple):
            return [self._value(None, one) for one in cast("list[Any]", value)]
        return value


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
