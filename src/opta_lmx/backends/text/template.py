"""One model's chat template: compiled once at load, rendered for each conversation."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes

from opta_lmx.backends.frames import Load
from opta_lmx.backends.protocol import LoadError, TextError
from opta_lmx.backends.text.defaults import default_template
from opta_lmx.backends.text.environment import TemplateRefusedError, build_environment
from opta_lmx.backends.text.meter import MAX_BUILT, Meter, TemplateBoundError, metered
from opta_lmx.backends.text.turns import (
    fold_after_tools,
    merge_turns,
    message_dicts,
    short_call_ids,
    single_calls,
    tool_dicts,
)
from opta_lmx.codec.tools.dialects import speech_for_template
from opta_lmx.core.types import Message, Speech, Tool

SourceKind = Literal["model", "config", "default"]

MAX_SOURCE_CHARS = 1_000_000
MAX_RENDERED_CHARS = MAX_BUILT
"""Several times the longest prompt any context holds."""

RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "raise_exception"}
    | {"strftime_now", "range", "dict", "lipsum", "cycler", "joiner", "namespace"}
)
"""Names a caller's template arguments may not take."""

# What evaluating arbitrary template code can raise, besides never ending.
_EVALUATION_ERRORS = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError, NotImplementedError),
)


class TemplateBoundsError(TextError):
    """The template builds too much or takes too long, whatever it is given."""


class ChatTemplate:
    """Turns a conversation into the text the model was trained to continue.

    `source_kind` says where the template came from; `supports_tools` whether it renders tool
    definitions itself; `speech` how this model is expected to write calls and reasoning.
    """

    def __init__(
        self, source: str, kind: SourceKind, bos_token: str, eos_token: str, speech: Speech
    ) -> None:
        """Use `from_source`."""
        self.source_kind: SourceKind = kind
        self.speech = speech
        self._template, self.supports_tools = _compile(source)
        self._specials = {"bos_token": bos_token, "eos_token": eos_token}

    @classmethod
    def from_source(
        cls,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        source_kind: SourceKind = "model",
        has_token: Callable[[str], bool] = lambda _: False,
        speech: Speech | None = None,
    ) -> "ChatTemplate":
        """Compile `source`, or the documented default when it is None.

        `bos_token` and `eos_token` are texts the template may write; `has_token` says whether
        the vocabulary holds a text as one token, and so chooses the default. `speech`, where
        given, stands for what the template tells of the model's ways.

        Raises:
            ValueError: the template is no valid Jinja; the message says where.
        """
        if source is None:
            source, source_kind = default_template(has_token), "default"
        said = speech or speech_for_template(source, has_token)
        return cls(source, source_kind, bos_token, eos_token, said)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt text.

        A template that refuses system turns, ids of calls or several calls in a turn, or demands
        alternation, is asked again with the conversation changed to fit.

        Raises:
            TextError: the template refused or failed; its own words are in the message.
            TemplateBoundsError: it built too much, or took too long.
        """
        values = dict(kwargs or {})
        if taken := RESERVED & values.keys():
            raise TextError(f"template argument '{min(taken)}' is reserved")
        values.update(self._specials)
        values.update(tools=tool_dicts(tools), add_generation_prompt=add_generation_prompt)
        refusal = ""
        if self.speech.tools == "harmony":
            # Its template shows the first call of a turn and drops the others in silence.
            messages = single_calls(messages)
        with metered(Meter(_chars(messages))):
            for attempt in _attempts(messages):
                try:
                    return self._evaluate({**values, "messages": message_dicts(attempt)})
                except TemplateRefusedError as error:
                    refusal = refusal or str(error)
        raise TextError(f"the chat template refuses this conversation: {refusal}")

    def _evaluate(self, values: dict[str, Any]) -> str:
        parts: list[str] = []
        room = MAX_RENDERED_CHARS
        try:
            for part in self._template.generate(values):
                room -= len(part)
                if room < 0:
                    raise TemplateBoundsError("the chat template writes too much text")
                parts.append(part)
        except TemplateRefusedError:
            raise
        except TemplateBoundError as error:
            raise TemplateBoundsError(f"the chat template failed: {error}") from error
        except _EVALUATION_ERRORS as error:
            raise TextError(f"the chat template failed: {error}") from error
        return "".join(parts)


def load_template(
    spec: Load,
    own: str | None,
    has_token: Callable[[str], bool],
    *,
    bos_token: str,
    eos_token: str,
) -> ChatTemplate:
    """The configured template, else the model's `own`, else the documented default.

    The other arguments are those of `ChatTemplate.from_source`.

    Raises:
        LoadError: it is no valid Jinja, or does not end with a short conversation.
    """
    try:
        template = ChatTemplate.from_source(
            spec.template or own,
            bos_token=bos_token,
            eos_token=eos_token,
            source_kind="config" if spec.template else "model",
            has_token=has_token,
            speech=spec.speech,
        )
        _try_out(template)
    except ValueError as error:
        raise LoadError(str(error)) from error
    return template


def _try_out(template: ChatTemplate) -> None:
    """Render little; a refusal is none of ours, for other conversations may please it."""
    asked = [Message("user", "Hello"), Message("assistant", "Hello"), Message("user", "Why?")]
    for turns in (asked[:1], asked, [Message("system", "Be brief."), *asked]):
        with contextlib.suppress(TextError):
            try:
                template.render(turns)
            except TemplateBoundsError as error:
                raise ValueError(str(error)) from error


def _chars(messages: Sequence[Message]) -> int:
    calls = (call for turn in messages for call in turn.tool_calls)
    return sum(len(turn.content) for turn in messages) + sum(len(one.arguments) for one in calls)


def _attempts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The conversation as it is, then as stricter templates may accept it."""
    tried = [list(messages)]
    # Most templates take it so; the rest is not made before one refuses.
    yield messages
    for base in (list(messages), single_calls(messages)):
        short = short_call_ids(base)
        merged = merge_turns(short)
        folded = fold_after_tools(short)
        for attempt in (base, short, folded, merged, fold_after_tools(merged)):
            if attempt not in tried:
                tried.append(attempt)
                yield attempt


def _compile(source: str) -> tuple[Template, bool]:
    """Return the compiled template and whether it reads `tools`."""
    if len(source) > MAX_SOURCE_CHARS:
        raise ValueError(f"the chat template is longer than {MAX_SOURCE_CHARS} characters")
    environment = build_environment()
    try:
        tree = environment.parse(source)
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        message = f"the chat template is not valid Jinja (line {error.lineno}): {error.message}"
        raise ValueError(message) from error
    except (TemplateError, RecursionError, SyntaxError, OverflowError, MemoryError) as error:
        raise ValueError(f"the chat template cannot be compiled: {error}") from error
    # Any mention counts: templates that first assign `tools` a default are not undeclared users.
    names = (name for name in tree.find_all(nodes.Name) if name.name == "tools")
    return template, next(names, None) is not None
