"""What a run is played on: the tiny model with the fleet's template and window, and servers."""

import json
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks import peers
from benchmarks.fleet.asking import Server
from benchmarks.fleet.drive import KEYS
from benchmarks.fleet.rendering import TEMPLATE, Counter
from benchmarks.fleet.script import House, Sizes, Text

WINDOW = 32_768
NAME = "fleet"
KINDS = ("llama", "sliding")


class Stage(msgspec.Struct, frozen=True):
    """The model's folder, and the counter of its tokens."""

    folder: Path
    counter: Counter

    def house(self, scale: float, seed: str) -> House:
        """What bots share, with prompts `scale` times as long as OpenClaw's."""
        text = Text(self.counter.tokens_per_word)
        return House(text, Sizes().scaled(scale), seed)


def build_stage(scratch: Path, kind: str = "llama") -> Stage:
    """Make the model's folder: the tests' tiny weights, a long window, our template.

    Args:
        scratch: where the folder is made.
        kind: `llama`, or `sliding` for a cache that cannot be trimmed past its window.
    """
    from tests.support.tiny import tiny_llama, tiny_sliding

    folder = scratch / f"model-{kind}"
    shutil.copytree(tiny_llama() if kind == "llama" else tiny_sliding(), folder)
    _change(folder / "config.json", {"max_position_embeddings": WINDOW})
    changes = {"chat_template": TEMPLATE, "model_max_length": WINDOW}
    _change(folder / "tokenizer_config.json", changes)
    return Stage(folder, Counter(folder))


def _change(path: Path, changes: Mapping[str, object]) -> None:
    content = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps(content), "utf-8")


def ours(
    stage: Stage, home: Path, settings: Mapping[str, str], keys: tuple[str, ...] = KEYS
) -> peers.Command:
    """This server on the stage's model; `home` may be one that served before.

    `settings` are `LMX_SECTION__KEY` variables; `keys` those that callers show.
    """
    from opta_lmx.models.store import ModelStore

    store = ModelStore(home / "models")
    store.sweep()
    if store.find(NAME) is None:
        store.add(stage.folder, NAME)
    fixed = {"LMX_ENGINE__BACKEND": "mlx", "LMX_SERVER__API_KEYS": json.dumps(list(keys))}
    command = peers.opta_lmx(NAME, home, {**fixed, **settings})
    return msgspec.structs.replace(command, key=next(iter(keys), ""))


def server_of(peer: peers.Peer, *, plain: bool = False) -> Server:
    """Where a running peer is asked."""
    return Server(peer.target.url, peer.target.model, plain)


def metrics(peer: peers.Peer, key: str) -> dict[str, float]:
    """The server's own metrics now: name with labels to value; empty where there are none."""
    url = peer.target.url.removesuffix("/v1") + "/metrics"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            text = reply.read().decode()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            found[name] = float(value)
    return found
