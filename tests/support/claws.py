"""Conversations as OpenClaw holds them, over HTTP in each of its three dialects.

System text and tools are long and the same for all bots. A request ends with a volatile message
that is not kept in history. Where a conversation's name stands depends on the dialect: in the
first user message, or near the end of the system text.
"""

import random
from typing import Any, Literal

import httpx

Dialect = Literal["completions", "responses", "messages"]
DIALECTS: tuple[Dialect, ...] = ("completions", "responses", "messages")
_CARRIER = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"
_AFTER_NAME = 0.012
"""The part of the system text that follows the conversation's name."""
_TOOLS = 0.23
"""Characters of tools, as a part of the system text's."""


def words(seed: object, characters: int) -> str:
    """So many characters of text that looks like words."""
    draw = random.Random(str(seed))
    found: list[str] = []
    length = 0
    while length < characters:
        word = "".join(draw.choice("etaoinshrdlu") for _ in range(draw.randrange(2, 9)))
        found.append(word)
        length += len(word) + 1
    return " ".join(found)[:characters].strip()


class Claw:
    """One bot's conversation.

    Args:
        http: to the server.
        model: to ask.
        dialect: of its requests.
        name: its own.
        system: characters of the text that all bots share; tools come on top.
        named: where the dialect puts the name into the system text, it stands there.
    """

    def __init__(
        self,
        http: httpx.Client,
        model: str,
        dialect: Dialect,
        name: str,
        system: int = 6000,
        *,
        named: bool = True,
    ) -> None:
        self._http = http
        self._model = model
        self._dialect = dialect
        self._name = name
        self._named = named and dialect != "completions"
        self._system = words("system", system)
        self._tools = [
            (f"tool_{n}", words(f"tool {n}", int(system * _TOOLS / 3))) for n in range(3)
        ]
        self._history: list[tuple[str, str]] = []
        self.prompt = self.cached = self.answered = 0

    def turn(self, length: int = 120, max_tokens: int = 12) -> str:
        """Say something; the answer is kept in history.

        `prompt`, `cached` and `answered` then hold the server's own counts of tokens.
        """
        place = f"{self._name}/{len(self._history)}"
        said = words(place, length)
        if not self._history and not self._named:
            said = f"{self._line()}\n{said}"
        self._history.append(("user", said))
        carrier = f"{_CARRIER}\n{words(f'carrier {place}', 250)}"
        answer = getattr(self, f"_{self._dialect}")(carrier, max_tokens)
        self._history.append(("assistant", answer))
        return answer

    def _line(self) -> str:
        return f"Runtime: session={words(self._name, 30)}"

    def _named_system(self) -> str:
        if not self._named:
            return self._system
        after = int(len(self._system) * _AFTER_NAME)
        stable, rest = self._system[:-after], self._system[-after:]
        return f"{stable}\n{self._line()}\n{rest}"

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self._http.post(path, json={"model": self._model, "temperature": 0, **body})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def _note(self, prompt: int, cached: int, answered: int) -> None:
        self.prompt, self.cached, self.answered = prompt, cached, answered

    def _completions(self, carrier: str, max_tokens: int) -> str:
        parts = [{"type": "text", "text": carrier}]
        turns = [{"role": role, "content": text} for role, text in self._history]
        body = {
            "messages": [
                {"role": "system", "content": self._named_system()},
                *turns,
                {"role": "user", "content": parts},
            ],
            "tools": [
                {"type": "function", "function": {"name": n, "description": d, "parameters": {}}}
                for n, d in self._tools
            ],
            "tool_choice": "auto",
            "max_completion_tokens": max_tokens,
        }
        made = self._post("/v1/chat/completions", body)
        used = made["usage"]
        details = used.get("prompt_tokens_details") or {}
        self._note(
            used["prompt_tokens"], details.get("cached_tokens", 0), used["completion_tokens"]
        )
        return made["choices"][0]["message"]["content"] or ""

    def _responses(self, carrier: str, max_tokens: int) -> str:
        def item(role: str, text: str) -> dict[str, Any]:
            kind = "output_text" if role == "assistant" else "input_text"
            part: dict[str, Any] = {"type": kind, "text": text}
            if role == "assistant":
                part["annotations"] = []
            return {"type": "message", "role": role, "content": [part]}

        turns = [("system", self._named_system()), *self._history, ("user", carrier)]
        body = {
            "input": [item(*turn) for turn in turns],
            "tools": [
                {"type": "function", "name": n, "description": d, "parameters": {}}
                for n, d in self._tools
            ],
            "max_output_tokens": max_tokens,
            "store": False,
        }
        made = self._post("/v1/responses", body)
        used = made["usage"]
        self._note(
            used["input_tokens"],
            used["input_tokens_details"]["cached_tokens"],
            used["output_tokens"],
        )
        texts = [
            part["text"]
            for output in made["output"]
            for part in output.get("content") or ()
            if part["type"] == "output_text"
        ]
        return "".join(texts)

    def _messages(self, carrier: str, max_tokens: int) -> str:
        stable, rest = self._named_system()[:-600], self._named_system()[-600:]
        ephemeral = {"type": "ephemeral"}
        turns: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in self._history
        ]
        turns[-1]["content"][0]["cache_control"] = ephemeral
        turns.append({"role": "user", "content": [{"type": "text", "text": carrier}]})
        body = {
            "system": [
                {"type": "text", "text": stable, "cache_control": ephemeral},
                {"type": "text", "text": rest},
            ],
            "messages": turns,
            "tools": [
                {"name": n, "description": d, "input_schema": {"type": "object"}}
                for n, d in self._tools
            ],
            "max_tokens": max_tokens,
        }
        made = self._post("/v1/messages", body)
        used = made["usage"]
        cached = used.get("cache_read_input_tokens") or 0
        created = used.get("cache_creation_input_tokens") or 0
        self._note(used["input_tokens"] + cached + created, cached, used["output_tokens"])
        return "".join(part["text"] for part in made["content"] if part["type"] == "text")
