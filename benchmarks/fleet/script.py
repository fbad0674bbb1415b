"""What a bot says: conversations with the sizes and the habits that OpenClaw was seen to have.

System text and tools are long and the same for all. The conversation's name stands near the end
of the system text in two dialects, and in the first user turn in the third. Every request ends
with a volatile message that is not kept, so the next one is no continuation of this one.
"""

import json
import random
from typing import Any, Literal, get_args

import msgspec

from benchmarks.prompts import WORDS

Dialect = Literal["completions", "responses", "messages"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
Role = Literal["user", "assistant", "tool"]
Json = dict[str, Any]

_TAIL_MARK = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"
_TOOL_NAMES = (
    *("apply_patch", "edit", "exec", "ls", "process", "read"),
    *("tool_call", "tool_describe", "tool_search", "web_fetch", "write", "session_status"),
)


class Sizes(msgspec.Struct, frozen=True):
    """Lengths in tokens, as near as words of a mean length come to them.

    `scaled` shortens prompts for a model whose window, or a machine whose speed, asks for it;
    answers keep their length.
    """

    stable: int = 8300
    dynamic: int = 1200
    tools: int = 2500
    tool_count: int = 12
    after_name: int = 125
    """Tokens behind the conversation's name where it stands near the end of the system text."""
    tail: int = 70
    user: tuple[int, int] = (30, 160)
    result: tuple[int, int] = (80, 500)
    answer: tuple[int, int] = (60, 200)

    def scaled(self, factor: float) -> "Sizes":
        """The same with prompts `factor` times as long."""

        def pair(given: tuple[int, int]) -> tuple[int, int]:
            return max(4, round(given[0] * factor)), max(8, round(given[1] * factor))

        return msgspec.structs.replace(
            self,
            stable=round(self.stable * factor),
            dynamic=round(self.dynamic * factor),
            tools=round(self.tools * factor),
            tool_count=min(len(_TOOL_NAMES), max(1, round(self.tool_count * factor))),
            after_name=max(8, round(self.after_name * factor)),
            tail=max(12, round(self.tail * factor)),
            user=pair(self.user),
            result=pair(self.result),
        )


class Call(msgspec.Struct, frozen=True):
    """A tool call in history: its id as OpenClaw writes it back, and arguments as an object."""

    id: str
    name: str
    arguments: Json


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation; `call_id` is the call a tool's result answers."""

    role: Role
    text: str = ""
    call: Call | None = None
    call_id: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A tool as the model is told of it."""

    name: str
    description: str
    parameters: Json


class Ask(msgspec.Struct, frozen=True):
    """One request of a conversation, before it is put into a dialect.

    `stable` and `dynamic` are the two parts of the system text; `tail` is the volatile message
    at the end. `session` names the conversation.
    """

    dialect: Dialect
    stable: str
    dynamic: str
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    tail: str
    max_tokens: int
    session: str

    @property
    def system(self) -> str:
        """The system text as the model reads it."""
        return "\n".join(part for part in (self.stable, self.dynamic) if part)


class Text:
    """Makes reproducible text of about a wanted number of tokens.

    Args:
        tokens_per_word: of the model's tokenizer, measured on `WORDS`.
    """

    def __init__(self, tokens_per_word: float) -> None:
        self._per_word = tokens_per_word

    def make(self, draw: random.Random, tokens: float) -> str:
        """Words that make about `tokens` tokens, at least one."""
        return " ".join(draw.choices(WORDS, k=max(1, round(tokens / self._per_word))))


class House:
    """What all bots of one deployment share: the system text and the tools.

    Args:
        text: makes the words.
        sizes: how long the parts are.
        seed: the same seed makes the same house.
    """

    def __init__(self, text: Text, sizes: Sizes, seed: str) -> None:
        draw = random.Random(f"{seed}/house")
        self.text = text
        self.sizes = sizes
        self.seed = seed
        self.stable = text.make(draw, sizes.stable)
        self._before = text.make(draw, max(1, sizes.dynamic - sizes.after_name))
        self._after = text.make(draw, sizes.after_name)
        self.tools = tuple(self._tool(draw, name) for name in _TOOL_NAMES[: sizes.tool_count])

    def dynamic(self, dialect: Dialect, name_line: str) -> str:
        """The second part of the system text; in two dialects it names the conversation."""
        match dialect:
            case "completions":
                parts = (self._before, self._after)
            case "responses":
                parts = (self._before, name_line, self._after)
            case "messages":
                parts = (name_line, self._before, self._after)
        return "\n".join(parts)

    def _tool(self, draw: random.Random, name: str) -> Tool:
        # A schema of two fields takes about 85 tokens besides its descriptions.
        room = max(4.0, self.sizes.tools / self.sizes.tool_count - 85) / 3
        fields = {
            key: {"type": kind, "description": self.text.make(draw, room)}
            for key, kind in (("path", "string"), ("limit", "number"))
        }
        schema = {"type": "object", "required": ["path"], "properties": fields}
        return Tool(name, self.text.make(draw, room), schema)


class Conversation:
    """One session of one bot: asks, takes the answer into its history, asks again.

    Args:
        house: the parts shared with others.
        bot: its name.
        number: which of the bot's sessions.
        dialect: how it is sent; it decides where the session's name stands.
    """

    def __init__(self, house: House, bot: str, number: int, dialect: Dialect) -> None:
        self._house = house
        self._draw = random.Random(f"{house.seed}/{bot}/{number}")
        self._dialect: Dialect = dialect
        self._turns: list[Turn] = []
        self._calls = 0
        self.session = f"{bot}-{number}-{self._draw.getrandbits(32):08x}"

    def ask(self) -> Ask:
        """Say something, and return the request for an answer to it."""
        if self._turns and self._draw.random() < 0.5:
            self._use_tool()
        self._turns.append(Turn("user", self._user_text()))
        return self._request()

    def answered(self, text: str) -> None:
        """Keep the model's words."""
        self._turns.append(Turn("assistant", text.strip() or "..."))

    @property
    def length(self) -> int:
        """Messages so far."""
        return len(self._turns)

    @property
    def name_line(self) -> str:
        """What tells this session's system text from another's."""
        return f"Runtime: agent=main session={self.session} channel=none"

    def _request(self) -> Ask:
        tail = self._house.text.make(self._draw, self._house.sizes.tail)
        return Ask(
            dialect=self._dialect,
            stable=self._house.stable,
            dynamic=self._house.dynamic(self._dialect, self.name_line),
            tools=self._house.tools,
            turns=tuple(self._turns),
            tail=f"{_TAIL_MARK}\n{tail}",
            max_tokens=self._draw.randint(*self._house.sizes.answer),
            session=self.session,
        )

    def _user_text(self) -> str:
        text = self._house.text.make(self._draw, self._draw.randint(*self._house.sizes.user))
        if self._dialect == "completions" and not self._turns:
            return f"{self.name_line}\n{text}"
        return text

    def _use_tool(self) -> None:
        """Put a call and its result into history, as if the last answer had asked for it."""
        self._calls += 1
        name = self._draw.choice(_TOOL_NAMES)
        path = "/".join(self._draw.choices(WORDS, k=3))
        call = Call(f"call{self.session.replace('-', '')}{self._calls}", name, {"path": path})
        result = self._house.text.make(self._draw, self._draw.randint(*self._house.sizes.result))
        self._turns += [
            Turn("user", self._user_text()),
            Turn("assistant", call=call),
            Turn("tool", json.dumps({"ok": True, "text": result}), call_id=call.id),
        ]


def job(house: House, number: int, tokens: int, max_tokens: int) -> Ask:
    """A background job: a prompt of its own, no tools, no history; nothing shared with bots."""
    draw = random.Random(f"{house.seed}/job/{number}")
    return Ask(
        dialect="completions",
        stable="",
        dynamic="",
        tools=(),
        turns=(Turn("user", house.text.make(draw, tokens)),),
        tail="",
        max_tokens=max_tokens,
        session=f"job-{number}",
    )
