"""Small repairs of JSON that a model wrote almost correctly, in one linear pass."""

import re

MAX_DEPTH = 64
"""What is nested deeper than this is not repaired."""

_TOKEN = re.compile(
    r"""
      (?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")
    | (?P<open>[{\[])
    | (?P<close>[}\]])
    | (?P<comma>,)
    | (?P<colon>:)
    | (?P<blank>\s++)
    | (?P<word>[^\s"{}\[\],:]++)
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x1f]")
_PAIRS = {"{": "}", "[": "]"}
# Python's spelling of JSON's words, a frequent slip of models trained on code.
_WORDS = {"True": "true", "False": "false", "None": "null"}


class _BeyondRepairError(Exception):
    """The text is not JSON with a small flaw."""


class _Mender:
    """Rebuilds the top-level values of one text."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.open: list[str] = []
        self._parts: list[str] = []
        self._last = -1

    def take(self, kind: str, lexeme: str) -> None:
        if not self.open and kind != "open":
            self._between(kind, lexeme)
        elif kind == "open":
            self._enter(lexeme)
        elif kind == "close":
            self._leave(lexeme)
        elif kind == "string":
            self._write(_CONTROL.sub(_escape, lexeme))
        elif kind == "blank":
            self._parts.append(lexeme)
        else:
            self._write(_WORDS.get(lexeme, lexeme))

    def close_all(self) -> None:
        while self.open:
            self._leave(_PAIRS[self.open[-1]])

    def _between(self, kind: str, lexeme: str) -> None:
        """Between values only separators, fences and superfluous closers may stand."""
        filler = kind in ("blank", "comma") or (kind == "close" and bool(self.values))
        if not filler and lexeme != ";" and not lexeme.startswith("```"):
            raise _BeyondRepairError

    def _enter(self, lexeme: str) -> None:
        if len(self.open) == MAX_DEPTH:
            raise _BeyondRepairError
        self.open.append(lexeme)
        self._write(lexeme)

    def _leave(self, lexeme: str) -> None:
        opener = "{" if lexeme == "}" else "["
        if opener not in self.open:
            raise _BeyondRepairError
        while True:
            if self._parts[self._last] == ",":
                self._parts[self._last] = ""
            innermost = self.open.pop()
            self._write(_PAIRS[innermost])
            if innermost == opener:
                break
        if not self.open:
            self.values.append("".join(self._parts))
            self._parts = []

    def _write(self, lexeme: str) -> None:
        self._last = len(self._parts)
        self._parts.append(lexeme)


def mend(text: str, *, may_close: bool) -> list[str] | None:
    """Return the JSON objects and lists in `text`, repaired; None when it is beyond repair.

    Repairs: trailing commas, raw control characters in strings, `True`/`False`/`None`, a
    missing closer inside, superfluous closers at the end, code fences and separators around
    the values, and missing closers at the end.

    Args:
        text: what stands where JSON was expected.
        may_close: whether missing closers at the end may be supplied; never for a cut text.
    """
    mender = _Mender()
    position = 0
    try:
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None or found.lastgroup is None:
                return None
            mender.take(found.lastgroup, found.group())
            position = found.end()
        if mender.open and not may_close:
            return None
        mender.close_all()
    except _BeyondRepairError:
        return None
    return mender.values


def _escape(control: re.Match[str]) -> str:
    char = control.group()
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\u{ord(char):04x}")
