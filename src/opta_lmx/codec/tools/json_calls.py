"""The generic JSON dialect: the answer begins with calls as bare JSON, fenced or marked.

Read are one object or list of `{"name": ..., "arguments" | "parameters": ...}`, several of them
one after another, in code fences, or after the marks `<|python_tag|>` (Llama) and
`[TOOL_CALLS]` (Mistral), which may also stand after text.
"""

import re
from enum import Enum, auto

from opta_lmx.codec.tools.calls import read_calls
from opta_lmx.codec.tools.protocol import TextOut, ToolOut
from opta_lmx.codec.tools.scanning import StringAware, cut_marker

MARKERS = ("<|python_tag|>", "[TOOL_CALLS]")
WINDOW = 256
"""Characters after which a beginning that is still undecided counts as text."""

_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
_MARK = "|".join(re.escape(marker) for marker in MARKERS)
_LABEL = "(?:json|tool_calls?)?"
_VALUE = r'(?P<value>(?:\[\s*)?\{\s*"(?P<key>\w*)")'
_CUT_VALUE = r'(?:\[\s*)?(?:\{\s*(?:"\w*)?)?'

# What a call may look like at the start of an answer, and after another call.
_FIRST = re.compile(rf"\s*(?:(?:{_MARK})\s*)?(?:```{_LABEL}\s*)?{_VALUE}")
_AGAIN = re.compile(rf"(?:[\s;,]|{_MARK}|```{_LABEL})*{_VALUE}")
# The beginnings of the same.
_FIRST_CUT = re.compile(rf"\s*(?:(?:{_MARK})\s*)?(?:`{{0,2}}|```[a-z_]*\s*){_CUT_VALUE}")
_AGAIN_CUT = re.compile(rf"(?:[\s;,]|{_MARK}|```[a-z_]*)*`{{0,2}}{_CUT_VALUE}")

_MARKER = re.compile(_MARK)
_LEADING_MARK = re.compile(rf"[\s;,]*(?:{_MARK})")
_FENCE_END = re.compile(r"\s*```(?![a-z])")
_LEFTOVER = re.compile(r"[\s;,`]*")


class _State(Enum):
    HEAD = auto()
    VALUE = auto()
    TEXT = auto()


class JsonCallParser:
    """Reads calls at the beginning of an answer, or after a mark.

    JSON that is no call (its first key says so, or it has no arguments) is the answer's text.
    """

    def __init__(self) -> None:
        self.parse_failures = 0
        self._state = _State.HEAD
        self._tail = ""
        self._prefix = ""
        self._body: list[str] = []
        self._depth = 0
        self._scan = StringAware("{}[]")
        self._called = False

    def feed(self, text: str) -> list[ToolOut]:
        """Take the next generated text."""
        plain = self._state is _State.TEXT and not self._tail
        if plain and "<" not in text and "[" not in text:
            return [TextOut(text)]
        out: list[ToolOut] = []
        text, self._tail = self._tail + text, ""
        position = 0
        while position < len(text):
            if self._state is _State.HEAD:
                position = self._head(text, position, out)
            elif self._state is _State.VALUE:
                position = self._value(text, position, out)
            else:
                position = self._text(text, position, out)
        return out

    def finish(self, *, truncated: bool) -> list[ToolOut]:
        """End the answer; a value that only lacks closing brackets is completed."""
        out: list[ToolOut] = []
        if self._state is _State.VALUE:
            self._read(out, may_close=not truncated)
        elif self._tail and not (self._called and _LEFTOVER.fullmatch(self._tail)):
            out.append(TextOut(self._tail))
        self._tail = ""
        return out

    def _head(self, text: str, start: int, out: list[ToolOut]) -> int:
        """Judge a beginning; the verdict depends on at most `WINDOW` characters."""
        window = text[start : start + WINDOW]
        call = (_AGAIN if self._called else _FIRST).match(window)
        if call is not None and call["key"] in _KEYS:
            return self._begin(window[: call.start("value")], start)
        if call is None and len(window) < WINDOW and self._undecided(window):
            self._tail = window
            return len(text)
        return self._leave_head(window, start, out)

    def _undecided(self, window: str) -> bool:
        bare = window.lstrip(" \t\r\n;,")
        if any(marker.startswith(bare) for marker in MARKERS):
            return True
        return (_AGAIN_CUT if self._called else _FIRST_CUT).fullmatch(window) is not None

    def _begin(self, prefix: str, start: int) -> int:
        self._prefix = prefix
        self._body = []
        self._depth = 0
        self._scan = StringAware("{}[]")
        self._state = _State.VALUE
        return start + len(prefix)

    def _leave_head(self, window: str, start: int, out: list[ToolOut]) -> int:
        """Go on as text: past a mark that led nowhere, and past the fence of the last call."""
        self._state = _State.TEXT
        mark = _LEADING_MARK.match(window)
        if mark is not None:
            out.append(TextOut(mark.group()))
            return start + mark.end()
        fence = _FENCE_END.match(window) if self._called and "```" in self._prefix else None
        return start + fence.end() if fence is not None else start

    def _value(self, text: str, start: int, out: list[ToolOut]) -> int:
        """Collect a value up to the bracket that closes it."""
        at = self._scan.find(text, start)
        while at >= 0:
            self._depth += 1 if text[at] in "{[" else -1
            if self._depth == 0:
                self._body.append(text[start : at + 1])
                self._read(out, may_close=False)
                return at + 1
            at = self._scan.find(text, at + 1)
        self._body.append(text[start:])
        return len(text)

    def _read(self, out: list[ToolOut], *, may_close: bool) -> None:
        raw = "".join(self._body)
        calls = read_calls(raw, may_close=may_close, bare_name=False)
        if calls:
            out += calls
            self._called = True
            self._state = _State.HEAD
            return
        self.parse_failures += calls is None
        out.append(TextOut(self._prefix + raw))
        self._state = _State.TEXT

    def _text(self, text: str, start: int, out: list[ToolOut]) -> int:
        """Pass text on up to a mark, holding back what may be the start of one."""
        mark = _MARKER.search(text, start)
        if mark is not None:
            end = mark.start()
            self._state = _State.HEAD
        else:
            end = len(text) - max(cut_marker(text, start, marker) for marker in MARKERS)
            self._tail = text[end:]
        if end > start:
            out.append(TextOut(text[start:end]))
        return end if mark is not None else len(text)
