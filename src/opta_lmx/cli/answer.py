"""One streamed chat answer: its text as it comes, and afterwards how fast it came."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from opta_lmx.cli.client import ServerClient
from opta_lmx.core.clock import Clock

Message = dict[str, str]


@dataclass
class Answer:
    """What was received: text, token counts where the server gave them, and times in seconds."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str = ""
    stopped: bool = False
    first_s: float = 0.0
    total_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Decode speed: tokens after the first over the time since the first."""
        spent = self.total_s - self.first_s
        if self.completion_tokens < 2 or spent <= 0:
            return None
        return (self.completion_tokens - 1) / spent

    def summary(self) -> str:
        """One line for a person: counts, speed, and why it ended if not by itself."""
        parts = [f"{self.completion_tokens} tokens"] if self.completion_tokens else []
        speed = self.tokens_per_s
        if speed is not None:
            parts.append(f"{speed:.1f} tokens/s")
        if self.first_s:
            parts.append(f"first after {self.first_s:.2f} s")
        if self.cached_tokens:
            parts.append(f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens cached")
        if self.stopped:
            parts.append("stopped")
        elif self.finish_reason not in ("", "stop"):
            parts.append(f"ended by {self.finish_reason}")
        return ", ".join(parts)


def ask(
    client: ServerClient,
    model: str,
    messages: list[Message],
    write: Callable[[str], None],
    clock: Clock,
) -> Answer:
    """Stream one answer, giving each piece of text to `write`; Ctrl-C ends it early.

    Raises:
        LmxError: the server refused, or the stream carried an error.
    """
    answer = Answer()
    start = clock.monotonic()
    body = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        with closing(client.events("/v1/chat/completions", body)) as events:
            for event in events:
                piece = _take(answer, event)
                if piece:
                    answer.first_s = answer.first_s or clock.monotonic() - start
                    answer.text += piece
                    write(piece)
    except KeyboardInterrupt:
        answer.stopped = True
    answer.total_s = clock.monotonic() - start
    return answer


def _take(answer: Answer, event: dict[str, Any]) -> str:
    """Note what an event says of the whole answer; return the text it adds."""
    usage: dict[str, Any] | None = event.get("usage")
    if usage:
        answer.prompt_tokens = usage.get("prompt_tokens", 0)
        answer.completion_tokens = usage.get("completion_tokens", 0)
        details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
        answer.cached_tokens = details.get("cached_tokens", 0)
    choices: list[dict[str, Any]] = event.get("choices") or []
    for choice in choices:
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        delta: dict[str, Any] = choice.get("delta") or {}
        return str(delta.get("content") or "")
    return ""
