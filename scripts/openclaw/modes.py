"""The four ways OpenClaw speaks to a server, and how it is pointed at one."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.openclaw.client import OpenClaw
from scripts.openclaw.failure import TurnError
from scripts.openclaw.server import KEY

REQUEST_S = 900
_ONBOARD_S = 180.0


@dataclass(frozen=True)
class Dialect:
    """How a streamed reply is read.

    Attributes:
        path: where the calls go.
        visible: matches once a word of the answer has been sent.
        finished: matches once the answer has come to its proper end.
    """

    path: str
    visible: re.Pattern[bytes]
    finished: re.Pattern[bytes]


@dataclass(frozen=True)
class Mode:
    """One way: its name as in OpenClaw's configuration, its provider, its dialect."""

    name: str
    provider: str
    dialect: Dialect
    suffix: str = "/v1"


CHAT = Dialect(
    "/v1/chat/completions",
    re.compile(rb'"content": ?"[^"]'),
    re.compile(rb'"finish_reason": ?"(?s:.*)\ndata: \[DONE\]'),
)
RESPONSES = Dialect(
    "/v1/responses",
    re.compile(rb'"type": ?"response\.output_text\.delta"'),
    re.compile(rb'"type": ?"response\.(?:completed|incomplete)"'),
)
MESSAGES = Dialect(
    "/v1/messages",
    re.compile(rb'"type": ?"text_delta"'),
    re.compile(rb'"type": ?"message_stop"'),
)
LM_STUDIO = "lmstudio"
MODES = (
    Mode("openai-completions", "opta", CHAT),
    Mode("openai-responses", "opta", RESPONSES),
    Mode("anthropic-messages", "opta", MESSAGES, suffix=""),
    Mode(LM_STUDIO, LM_STUDIO, CHAT),
)


def provider(mode: Mode, block: dict[str, Any], root: str) -> dict[str, Any]:
    """The provider block that `opta-lmx openclaw config` writes, for another way of speaking.

    Args:
        mode: the way.
        block: the block as written, for chat completions.
        root: the server's address without a path.
    """
    changed = {"baseUrl": f"{root}{mode.suffix}", "api": mode.name, "timeoutSeconds": REQUEST_S}
    return block | changed


def told(model: dict[str, Any], max_tokens: int, window: int | None = None) -> dict[str, Any]:
    """A model's entry with another longest answer and, where given, another window."""
    # The LM Studio provider keeps the window that it may use beside the one there is.
    names = [name for name in ("contextWindow", "contextTokens") if name in model]
    return model | {"maxTokens": max_tokens} | (dict.fromkeys(names, window) if window else {})


def onboard(openclaw: OpenClaw, home: Path, config: Path, root: str, model: str) -> None:
    """OpenClaw's own setup of its LM Studio provider, unattended; writes `config`."""
    arguments = ["onboard", "--non-interactive", "--accept-risk", "--mode", "local"]
    arguments += ["--skip-health", "--skip-channels", "--skip-skills", "--skip-search"]
    arguments += ["--skip-hooks", "--skip-ui", "--skip-daemon", "--skip-bootstrap"]
    arguments += ["--workspace", str(home / "workspace"), "--json"]
    arguments += ["--auth-choice", LM_STUDIO, "--custom-base-url", f"{root}/v1"]
    arguments += ["--custom-model-id", model, "--lmstudio-api-key", KEY]
    done = openclaw.run(arguments, home, config, _ONBOARD_S)
    if done.status != 0 or not config.exists():
        raise TurnError(f"onboarding ended with {done.status}:\n{(done.out + done.err)[-3000:]}")


def edit(config: Path, mode: Mode, root: str, limits: tuple[int, int | None]) -> None:
    """Make a written configuration speak in a mode, with short answers.

    Args:
        config: OpenClaw's file.
        mode: how it is to speak.
        root: the server's address.
        limits: the longest answer, and a window to claim instead of the true one.
    """
    tree: dict[str, Any] = json.loads(config.read_text())
    providers = tree["models"]["providers"]
    block = providers[mode.provider]
    if mode.name == LM_STUDIO:
        block["timeoutSeconds"] = REQUEST_S
    else:
        block = providers[mode.provider] = provider(mode, block, root)
    block["models"] = [told(model, *limits) for model in block["models"]]
    config.write_text(json.dumps(tree, indent=2))
