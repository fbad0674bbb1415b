"""`chat`: a conversation in the terminal, or one question from the command line or a pipe."""

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from opta_lmx.cli.session import ConfigOption, KeyOption, UrlOption, open_session
from opta_lmx.core.errors import ErrorKind, LmxError, invalid

if TYPE_CHECKING:
    from opta_lmx.cli.answer import Answer, Message
    from opta_lmx.cli.client import ServerClient
    from opta_lmx.cli.proposing import Proposal

HELP = "/clear forgets the conversation, /exit leaves; Ctrl-C stops an answer."


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(chat)


def chat(
    *,
    question: Annotated[
        str | None, typer.Argument(metavar="[QUESTION]", help="Ask this alone, then leave.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model to talk to; else the loaded one.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="Instructions that come first.")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Talk to a model of the running server; where none runs here, one is started for it."""
    from opta_lmx.cli.own_server import reach
    from opta_lmx.cli.proposing import Proposal

    if question is None and not sys.stdin.isatty():
        question = _piped()
    with reach(config, url, api_key, model) as (client, known):
        conversation = Conversation(client, known or default_model(client), system)
        if question is not None:
            _ask_once(conversation, question)
        else:
            _converse(conversation, Proposal(open_session(config), conversation.model, url))


def _piped() -> str:
    """The whole of standard input as one question."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise invalid("The input is not UTF-8 text", param="question") from error
    if not text:
        raise invalid("Nothing to ask: the input is empty", param="question")
    return text


def default_model(client: "ServerClient") -> str:
    """A loaded model, else the first the server has. Raises LmxError if there is none."""
    models = client.models()
    if not models:
        raise LmxError(
            ErrorKind.MODEL_NOT_FOUND,
            "The server has no model; get one with: opta-lmx pull starter",
            code="no_models",
        )
    return str(next((one for one in models if one.get("state") == "ready"), models[0])["id"])


class Conversation:
    """The messages so far; a question that failed or was not answered leaves no trace."""

    def __init__(self, client: "ServerClient", model: str, system: str | None) -> None:
        self.model = model
        self._client = client
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)

    def clear(self) -> None:
        """Forget everything but the instructions."""
        self._messages = list(self._start)

    def ask(self, question: str) -> "Answer":
        """Stream the answer to stdout. Raises LmxError."""
        from opta_lmx.cli.answer import ask
        from opta_lmx.core.clock import SystemClock

        asked = [*self._messages, {"role": "user", "content": question}]
        answer = ask(self._client, self.model, asked, _write, SystemClock())
        if answer.text:
            self._messages = [*asked, {"role": "assistant", "content": answer.text}]
        return answer


def _ask_once(conversation: Conversation, question: str) -> None:
    answer = conversation.ask(question)
    typer.echo()
    typer.echo(answer.summary(), err=True)
    if answer.stopped:
        raise typer.Exit(130)


def _converse(conversation: Conversation, proposal: "Proposal") -> None:
    from opta_lmx.cli.terminal import complain, describe

    typer.secho(f"{conversation.model} · {HELP}", dim=True)
    while (line := _read_line()) is not None:
        if line == "/exit":
            return
        if line == "/clear":
            conversation.clear()
            typer.secho("The conversation is forgotten.", dim=True)
        elif line.startswith("/"):
            typer.secho(HELP, dim=True)
        elif line:
            try:
                answer = conversation.ask(line)
            except LmxError as error:
                typer.echo()
                complain(describe(error))
            else:
                typer.echo()
                typer.secho(answer.summary(), dim=True)
                if better := proposal.line():
                    typer.secho(better, dim=True)


def _read_line() -> str | None:
    """The next line without its edges; None when the person leaves (Ctrl-D, Ctrl-C)."""
    with contextlib.suppress(ImportError):
        # Gives line editing and history, where the platform has it.
        importlib.import_module("readline")
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        typer.echo()
        return None


def _write(piece: str) -> None:
    from opta_lmx.cli.terminal import printable

    # What a model writes must not drive the terminal; a file gets the bytes as they are.
    sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()
