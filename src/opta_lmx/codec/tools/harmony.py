"""Harmony (gpt-oss): every message has a header with a channel, and perhaps a recipient.

`analysis` is reasoning, `final` is the answer, `commentary` with a recipient is a call and
without one is text that leads to it. A prompt ends inside a header, so the answer begins in it.
"""

import re

from opta_lmx.codec.tools.json_text import Result, ValueReader
from opta_lmx.codec.tools.parser import StreamParser
from opta_lmx.codec.tools.protocol import Schemas
from opta_lmx.codec.tools.source import CALL_COST, Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
END, CALL, RETURN, CONSTRAIN = "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"
MARKS = (START, CHANNEL, MESSAGE, END, CALL, RETURN, CONSTRAIN)

_HEADER_LIMIT = 512
_MESSAGE = marks_of(MESSAGE)
_BODY_ENDS = marks_of(START, CHANNEL, END, CALL, RETURN)
_ENDS = Ends(_BODY_ENDS)
_HEADER_STARTS = marks_of(START, CHANNEL, MESSAGE, CONSTRAIN, " to=", "to=", "assistant")
_DROPPED = marks_of(END, CALL, RETURN)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"(?:<\|channel\|>|^)\s*(analysis|commentary|final)\b")


class HarmonyParser(StreamParser):
    """Parser of Harmony's messages; see `protocol.ToolParser`.

    Args:
        tools: what the request offers. A message to anybody else is reasoning.
        calls: whether calls are looked for at all.
    """

    def __init__(self, tools: Schemas = (), *, calls: bool = True) -> None:
        super().__init__(tools)
        self._calls = calls
        self._hushed = True

    @property
    def hushed(self) -> bool:
        """What comes next is a header or reasoning."""
        return self._hushed

    def _reads(self) -> Reads[None]:
        source = self._source
        while not self.cut and (source.at < len(source.text) or (yield from source.peek())):
            source.spent += 1
            if not self._hushed:
                self._hushed = True
                yield from self._pause()
                continue
            if (yield from source.accept(_DROPPED)):
                continue
            if (yield from source.follows(_HEADER_STARTS)):
                yield from self._message()
            else:
                yield from self._speak()
                yield from self._body()

    def _message(self) -> Reads[None]:
        """Read one header and what it announces."""
        source, reading = self._source, self._reading
        source.raw = []
        header = yield from reading.until(_MESSAGE, _HEADER_LIMIT)
        if header is None:
            self._unheaded()
            return
        yield from source.accept(_MESSAGE)
        source.raw = None
        recipient, channel = _RECIPIENT.search(header), _CHANNEL_NAME.search(header)
        name = recipient[1].removeprefix("functions.") if recipient is not None else ""
        if recipient is not None and self._is_call(recipient[1], name):
            yield from self._speak()
            yield from self._call(name)
        elif recipient is not None or (channel is not None and channel[1] == "analysis"):
            reading.start_thinking()
            yield from self._body()
            reading.stop_thinking()
            reading.trimming = False
        else:
            yield from self._speak()
            yield from self._body()

    def _speak(self) -> Reads[None]:
        self._hushed = False
        yield from self._pause()

    def _unheaded(self) -> None:
        """What looked like a header led to no message; marks alone are no text."""
        raw = "".join(self._source.raw or ())
        self._source.raw = None
        if not raw.lstrip().startswith(MARKS):
            self._reading.say(raw)

    def _is_call(self, recipient: str, name: str) -> bool:
        if not self._calls or self._source.weary:
            return False
        offered = self._reading.tools
        return name in offered if offered else recipient != name

    def _call(self, name: str) -> Reads[None]:
        source, reading = self._source, self._reading
        source.spent += CALL_COST
        yield from source.blank()
        if (yield from source.peek()) != "{":
            if (yield from source.follows(_BODY_ENDS)):
                reading.whole(name, "{}")
            elif not source.truncated:
                reading.failures += 1
                yield from self._body()
            return
        reading.begin(name)
        result = yield from ValueReader(source, reading.argue, _ENDS).read()
        if result is not Result.CUT:
            reading.failures += result is Result.UNSOUND
            reading.end()
            yield from reading.rest(_BODY_ENDS)

    def _body(self) -> Reads[None]:
        """Say a message's text, up to the mark that ends it."""
        source, reading = self._source, self._reading
        while True:
            found = _BODY_ENDS.whole.search(source.text, source.at)
            if found is not None:
                reading.say(source.take(found.start()))
                return
            end = len(source.text) - _BODY_ENDS.cut(source.text, source.at)
            reading.say(source.take(end))
            if not (yield from source.more()):
                reading.say(source.take(len(source.text)))
                return
