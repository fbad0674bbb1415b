"""What the files of an encoder's folder say: the network's shape, and how vectors are made.

`modules.json` and the pooling folder it names are those of sentence-transformers. A folder
without them gets the documented default: the mean over all tokens, scaled to length 1.
"""

from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from opta_lmx.backends.protocol import LoadError
from opta_lmx.backends.text.files import read_object

Pooling = Literal["mean", "cls", "max"]

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert")
"""Families that count positions from the padding token's id plus one."""
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_OTHER_POOLINGS = (
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)
_MAX_MODULES_BYTES = 1 << 20


class Shape(msgspec.Struct, frozen=True):
    """The network: `first_position` is the place of the first token in the position table."""

    layers: int
    hidden: int
    heads: int
    eps: float
    activation: Literal["gelu", "gelu_tanh", "relu"]
    first_position: int
    vocabulary: int
    segments: int


class EncoderFolder(msgspec.Struct, frozen=True):
    """A folder read.

    `window` is the longest input in tokens the makers foresaw, `positions` the longest the
    network can take; `shorter` are the widths the vectors were trained to be cut to; `prompt`
    is put before every text.
    """

    path: Path
    shape: Shape
    window: int
    positions: int
    pooling: Pooling
    normalise: bool
    shorter: tuple[int, ...]
    prompt: str


def read_encoder_folder(path: Path) -> EncoderFolder:
    """Read config.json and the sentence-transformers files beside it.

    Raises:
        LoadError: files that cannot be read, a family or a module that is not supported.
    """
    config = read_object(path / "config.json")
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise LoadError(
            f"encoders of type {str(kind)[:60]!r} are not supported; "
            f"those of {', '.join(MODEL_TYPES)} are"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise LoadError("only absolute positions are supported")
    shape = _shape(config, offset=kind in _OFFSET_TYPES)
    positions = _number(config, "max_position_embeddings") - shape.first_position
    trained = read_object(path / "sentence_bert_config.json").get("max_seq_length")
    window = trained if isinstance(trained, int) and 0 < trained < positions else positions
    pooling, normalise = _modules(path)
    return EncoderFolder(
        path=path,
        shape=shape,
        window=window,
        positions=positions,
        pooling=pooling,
        normalise=normalise,
        shorter=_shorter(config, shape.hidden),
        prompt=_prompt(path),
    )


def _shape(config: dict[str, Any], *, offset: bool) -> Shape:
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    if hidden % heads:
        raise LoadError("config.json: the hidden size is no multiple of the heads")
    padding = config.get("pad_token_id")
    eps = config.get("layer_norm_eps", 1e-12)
    return Shape(
        layers=_number(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        eps=float(eps) if isinstance(eps, int | float) else 1e-12,
        activation=_activation(config.get("hidden_act", "gelu")),
        first_position=1 + (padding if isinstance(padding, int) else 1) if offset else 0,
        vocabulary=_number(config, "vocab_size"),
        segments=_number(config, "type_vocab_size"),
    )


def _number(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise LoadError(f"config.json: {key} is no positive number")
    return value


def _activation(name: object) -> Literal["gelu", "gelu_tanh", "relu"]:
    match name:
        case "gelu" | "gelu_python":
            return "gelu"
        case "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast":
            return "gelu_tanh"
        case "relu":
            return "relu"
        case _:
            raise LoadError(f"config.json: the activation {str(name)[:40]!r} is not supported")


def _modules(path: Path) -> tuple[Pooling, bool]:
    """How token vectors become one, and whether that one is scaled to length 1."""
    modules = _module_list(path / "modules.json")
    if not modules:
        return _find_pooling(path, "1_Pooling") or "mean", True
    pooling: Pooling | None = None
    normalise = False
    for kind, folder in modules:
        match kind.rpartition(".")[2]:
            case "Transformer":
                pass
            case "Pooling":
                pooling = _find_pooling(path, folder)
            case "Normalize":
                normalise = True
            case other:
                raise LoadError(f"the module {other[:60]!r} of modules.json is not supported")
    return pooling or "mean", normalise


def _module_list(path: Path) -> list[tuple[str, str]]:
    """Type and folder of each module, in order; empty without the file."""
    try:
        data = path.read_bytes()[:_MAX_MODULES_BYTES]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    try:
        modules = msgspec.json.decode(data, type=list[_Module])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    return [(module.type, module.path) for module in modules]


class _Module(msgspec.Struct):
    type: str
    path: str = ""


def _find_pooling(path: Path, folder: str) -> Pooling | None:
    """The pooling a module's configuration asks for; None where it says nothing.

    Model stores without subfolders keep the file under its joined name.
    """
    if "/" in folder or ".." in folder:
        raise LoadError("modules.json names a folder outside the model's")
    config = read_object(path / folder / "config.json") or read_object(
        path / f"{folder}_config.json"
    )
    wanted: list[Pooling] = [name for key, name in _POOLINGS.items() if config.get(key) is True]
    if len(wanted) > 1 or any(config.get(key) is True for key in _OTHER_POOLINGS):
        raise _no_pooling()
    match config.get("pooling_mode"):
        case None:
            return wanted[0] if wanted else None
        case "mean" | "cls" | "max" as named:
            return named
        case _:
            raise _no_pooling()


def _no_pooling() -> LoadError:
    return LoadError("the model's pooling is not supported: only mean, cls and max are")


def _shorter(config: dict[str, Any], width: int) -> tuple[int, ...]:
    listed = config.get("matryoshka_dimensions")
    if isinstance(listed, list):
        sizes = cast("list[object]", listed)
        return tuple(sorted(n for n in sizes if isinstance(n, int) and 0 < n < width))
    return tuple(range(1, width)) if config.get("is_matryoshka") is True else ()


def _prompt(path: Path) -> str:
    """The text sentence-transformers puts before every input, if the model names one."""
    settings = read_object(path / "config_sentence_transformers.json")
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    if not isinstance(name, str) or not isinstance(prompts, dict):
        return ""
    found = cast("dict[str, object]", prompts).get(name)
    return found if isinstance(found, str) else ""
