"""Model files of a few hundred bytes, well-formed by default and easy to make wrong."""

import json
import struct
from pathlib import Path
from typing import Any

GGUF_TYPES = {
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "u64": (10, "<Q"),
}
"""Metadata types by short name: number in the file, and how a value is packed."""

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")

SHAPES = {"token_embd.weight": (32, 8), "blk.0.attn_q.weight": (32, 32)}


class Gguf:
    """Writes a GGUF file piece by piece.

    Values of metadata: str, bool, int (u32), float (f32), a list of one of those, or bytes,
    which are written as they are (type number included).
    """

    def __init__(self, metadata: dict[str, Any], *, version: int = 3, alignment: int = 32) -> None:
        self.metadata = metadata
        self.version = version
        self.alignment = alignment
        self.tensors: list[tuple[str, tuple[int, ...], int, int, int]] = []
        self._end = 0

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: int = 0, nbytes: int | None = None
    ) -> "Gguf":
        """Add a tensor (f32 by default) at the next aligned place."""
        size = 4 if nbytes is None else nbytes
        if nbytes is None:
            for side in shape:
                size *= side
        self.tensors.append((name, shape, kind, self._end, size))
        self._end += -(-size // self.alignment) * self.alignment
        return self

    def header(self) -> bytes:
        """Everything before the tensor data, padded."""
        out = b"GGUF" + U32.pack(self.version)
        out += U64.pack(len(self.tensors)) + U64.pack(len(self.metadata))
        for key, value in self.metadata.items():
            out += text(key) + _value(value)
        for name, shape, kind, offset, _ in self.tensors:
            out += text(name) + U32.pack(len(shape)) + b"".join(U64.pack(side) for side in shape)
            out += U32.pack(kind) + U64.pack(offset)
        return out + b"\0" * (-len(out) % self.alignment)

    def data(self) -> bytes:
        """The whole file."""
        return self.header() + bytes(self._end)


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    raw = value.encode()
    return U64.pack(len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    number, packed = _scalar(value[0] if isinstance(value, list) and value else value)
    if isinstance(value, list):
        body = b"".join(_scalar(item)[1] for item in value)
        return U32.pack(9) + U32.pack(number) + U64.pack(len(value)) + body
    return U32.pack(number) + packed


def _scalar(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return 8, text(value)
    name = "bool" if isinstance(value, bool) else "f32" if isinstance(value, float) else "u32"
    number, form = GGUF_TYPES[name]
    return number, struct.pack(form, value if value != [] else 0)


def llama_metadata(**more: Any) -> dict[str, Any]:
    """Metadata of a one-layer Llama; `more` replaces or adds keys (`__` stands for a dot)."""
    base: dict[str, Any] = {
        "general.architecture": "llama",
        "general.file_type": 3,
        "llama.block_count": 1,
        "llama.context_length": 2048,
        "llama.embedding_length": 32,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": ["a", "b", "c", "d", "e", "f", "g", "h"],
        "tokenizer.chat_template": "{{ messages }}",
    }
    return base | {key.replace("__", "."): value for key, value in more.items()}


def small_gguf(**more: Any) -> bytes:
    """A well-formed one-layer Llama of about 6 kB."""
    writer = Gguf(llama_metadata(**more))
    for name, shape in SHAPES.items():
        writer.tensor(name, shape)
    return writer.data()


def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file from type, shape and data by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        body += data
    return with_header(json.dumps(header).encode(), body)


def with_header(header: bytes, body: bytes) -> bytes:
    """A safetensors file from a header as it is."""
    return U64.pack(len(header)) + header + body


def config(**more: Any) -> dict[str, Any]:
    """config.json of a one-layer Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "vocab_size": 8,
        "torch_dtype": "float32",
    } | more


def folder_files(**more: Any) -> dict[str, bytes]:
    """The files of a well-formed model folder, by name; `more` goes into config.json."""
    weights = safetensors({"model.embed_tokens.weight": ("F32", (8, 32), bytes(1024))})
    return {
        "config.json": json.dumps(config(**more)).encode(),
        "generation_config.json": json.dumps({"temperature": 0.6, "top_p": 0.9}).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "model.safetensors": weights,
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
