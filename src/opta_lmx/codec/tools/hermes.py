"""The Hermes and Qwen dialect: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

import re

from opta_lmx.codec.tools.calls import read_calls
from opta_lmx.codec.tools.protocol import TextOut, ToolOut
from opta_lmx.codec.tools.scanning import StringAware, cut_marker

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
_NOT_BLANK = re.compile(r"\S")
_PLAUSIBLE = frozenset("{[`")


class HermesParser:
    """Reads any number of calls, with text before, between and after them.

    Tags inside JSON strings are part of the string, so a call may write about calls. A call
    ends at its closing tag, at the next opening one, or at the end of the answer. Where a
    missing quote hides all later tags, the rest is read again with every tag counted.
    """

    def __init__(self) -> None:
        self.parse_failures = 0
        self._body: list[str] | None = None
        self._tail = ""
        self._begun = False
        self._literal = False
        self._scan = StringAware("<")

    def feed(self, text: str) -> list[ToolOut]:
        """Take the next generated text."""
        if self._body is None and not self._tail and "<" not in text:
            return [TextOut(text)]
        return self._consume(text)

    def finish(self, *, truncated: bool) -> list[ToolOut]:
        """End the answer; a complete call without its closing tag counts."""
        tail, self._tail = self._tail, ""
        if self._body is None:
            return [TextOut(tail)] if tail else []
        raw, self._body = "".join(self._body), None
        calls = read_calls(raw, may_close=not truncated, bare_name=True)
        if calls:
            return [*calls]
        if CLOSE in raw and not self._literal:
            self._literal = True
            return self._consume(OPEN + raw + tail) + self.finish(truncated=truncated)
        self.parse_failures += 1
        return [TextOut(OPEN + raw + tail)]

    def _consume(self, text: str) -> list[ToolOut]:
        out: list[ToolOut] = []
        text, self._tail = self._tail + text, ""
        position = 0
        while position < len(text):
            if self._body is None:
                position = self._outside(text, position, out)
            elif self._begun:
                position = self._inside(text, position, self._body, out)
            else:
                position = self._opening(text, position, self._body, out)
        return out

    def _outside(self, text: str, start: int, out: list[ToolOut]) -> int:
        """Pass text on up to an opening tag, holding back what may be the start of one."""
        at = text.find(OPEN, start)
        end = at if at >= 0 else len(text) - cut_marker(text, start, OPEN)
        if end > start:
            out.append(TextOut(text[start:end]))
        if at < 0:
            self._tail = text[end:]
            return len(text)
        self._body = []
        self._begun = False
        self._scan = StringAware("<", strings=not self._literal)
        return at + len(OPEN)

    def _opening(self, text: str, start: int, body: list[str], out: list[ToolOut]) -> int:
        """Judge the first character after an opening tag: can this become a call?"""
        first = _NOT_BLANK.search(text, start)
        if first is None:
            body.append(text[start:])
            return len(text)
        body.append(text[start : first.start()])
        if first.group() in _PLAUSIBLE:
            self._begun = True
        else:
            self._give_back(body, "", out)
        return first.start()

    def _inside(self, text: str, start: int, body: list[str], out: list[ToolOut]) -> int:
        """Collect a call up to a tag that stands outside its strings."""
        at = self._scan.find(text, start)
        while at >= 0:
            if text.startswith(CLOSE, at):
                body.append(text[start:at])
                self._end(body, CLOSE, out)
                return at + len(CLOSE)
            if text.startswith(OPEN, at):
                body.append(text[start:at])
                self._end(body, "", out)
                return at
            if _may_be_tag(text, at):
                body.append(text[start:at])
                self._tail = text[at:]
                return len(text)
            at = self._scan.find(text, at + 1)
        body.append(text[start:])
        return len(text)

    def _end(self, body: list[str], closing: str, out: list[ToolOut]) -> None:
        calls = read_calls("".join(body), may_close=True, bare_name=True)
        if calls:
            out += calls
            self._body = None
        else:
            self._give_back(body, closing, out)

    def _give_back(self, body: list[str], closing: str, out: list[ToolOut]) -> None:
        self.parse_failures += 1
        out.append(TextOut("".join((OPEN, *body, closing))))
        self._body = None


def _may_be_tag(text: str, at: int) -> bool:
    """Whether the text ends within what may become a tag."""
    if len(text) - at >= len(CLOSE):
        return False
    rest = text[at:]
    return CLOSE.startswith(rest) or OPEN.startswith(rest)
