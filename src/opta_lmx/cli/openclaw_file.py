"""OpenClaw's configuration file: the provider block, and merging it in without harm.

OpenClaw reads a superset of JSON. A file that uses more than JSON is refused: rewriting it
would lose its comments.
"""

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

from opta_lmx.core.errors import LmxError, invalid

PROVIDER = "opta"
TIMEOUT_S = 300
# OpenClaw refuses an empty key; a server without keys ignores this one.
NO_KEY = "no-key-needed"
# A gateway's first turn by OpenClaw's own estimate, beside the quarter of the window it reserves.
FIRST_TURN_TOKENS = 22_000
_LARGEST_ANSWER = 8192

Tree = dict[str, Any]


class Served(NamedTuple):
    """A model as OpenClaw is told of it: id, window in tokens, and longest answer."""

    id: str
    context: int
    max_tokens: int


def answer_limit(context: int) -> int:
    """The longest answer to announce: a quarter of the window, which is what OpenClaw reserves."""
    return max(1, min(_LARGEST_ANSWER, context // 4))


def provider_block(base_url: str, key: str, models: list[Served]) -> Tree:
    """The entry of `models.providers` for a server whose root is `base_url`."""
    return {
        "baseUrl": f"{base_url.rstrip('/')}/v1",
        "apiKey": key,
        "api": "openai-completions",
        "timeoutSeconds": TIMEOUT_S,
        "models": [_model(model) for model in models],
    }


def merged(existing: Tree, block: Tree, primary: str) -> Tree:
    """`existing` with our provider put in; the default model only where none was chosen.

    Raises:
        LmxError: code `openclaw_config_shape` where a key on the way is not an object.
    """
    result: Tree = json.loads(json.dumps(existing))
    models = _object_at(result, "models")
    _object_at(models, "providers", "models.")[PROVIDER] = block
    defaults = _object_at(_object_at(result, "agents"), "defaults", "agents.")
    if not defaults.get("model"):
        defaults["model"] = {"primary": f"{PROVIDER}/{primary}"}
    return result


def config_path(env: Mapping[str, str]) -> Path:
    """The file OpenClaw reads: `$OPENCLAW_CONFIG_PATH`, else the one in the user's home."""
    if named := env.get("OPENCLAW_CONFIG_PATH"):
        return Path(named).expanduser()
    home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    return home / ".openclaw" / "openclaw.json"


def write_merged(path: Path, block: Tree, primary: str) -> Path | None:
    """Merge the block into the file at `path`, keeping a backup of what was there.

    Returns:
        The backup, or None where there was no file or nothing had to change.

    Raises:
        LmxError: code `openclaw_config_unreadable` where the file is more than plain JSON.
    """
    # Through a link, as dotfile managers make them, the file itself is replaced.
    path = path.resolve()
    before = path.read_bytes() if path.exists() else None
    existing = parse(before, path) if before is not None else {}
    after = merged(existing, block, primary)
    if after == existing:
        return None
    text = json.dumps(after, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    backup = _back_up(path, before) if before is not None else None
    mode = stat.S_IMODE(path.stat().st_mode) if before is not None else 0o600
    _replace(path, text.encode(), mode)
    return backup


def parse(data: bytes, path: Path) -> Tree:
    """Read strict JSON; whatever could not be written back the same is refused."""

    def refuse(what: str) -> NoReturn:
        raise ValueError(what)

    def unique(pairs: list[tuple[str, Any]]) -> Tree:
        if len({name for name, _ in pairs}) != len(pairs):
            refuse("a key appears twice")
        return dict(pairs)

    def finite(text: str) -> float:
        number = float(text)
        return refuse(f"{text} is too large") if number in (float("inf"), -float("inf")) else number

    try:
        tree: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=refuse,
            parse_float=finite,
        )
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"it is not plain JSON ({error})") from error
    if not isinstance(tree, dict):
        raise _unreadable(path, "it is not a JSON object")
    return cast(Tree, tree)


def _model(model: Served) -> Tree:
    return {
        "id": model.id,
        "name": model.id,
        "reasoning": False,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": model.context,
        "maxTokens": model.max_tokens,
        "compat": {"supportsPromptCacheKey": True, "sendSessionAffinityHeaders": True},
    }


def _object_at(tree: Tree, key: str, prefix: str = "") -> Tree:
    value: object = tree.setdefault(key, {})
    if not isinstance(value, dict):
        raise invalid(
            f"{prefix}{key} in OpenClaw's configuration is not an object",
            param=f"{prefix}{key}",
            code="openclaw_config_shape",
        )
    return cast(Tree, value)


def _back_up(path: Path, data: bytes) -> Path:
    """Write `data` beside `path` under a name that was free."""
    number = 0
    while True:
        number += 1
        backup = path.with_name(f"{path.name}.before-opta-lmx.{number}")
        try:
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        return backup


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Put `data` in the place of `path` in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        draft.chmod(mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _unreadable(path: Path, why: str) -> LmxError:
    return invalid(
        f"{path} is left alone: {why}. Print the block with 'opta-lmx openclaw config' "
        "and put it in by hand.",
        param=str(path),
        code="openclaw_config_unreadable",
    )
