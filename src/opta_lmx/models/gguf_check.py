"""The check a GGUF file passes before an engine sees it: all its parts, and what they say together.

A header is read within its bounds by `read_gguf_header`; here its arrays are held against each
other, where llama.cpp would walk through several with the length of one.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from opta_lmx.models.gguf_header import GgufHeader, read_gguf_header
from opta_lmx.models.gguf_layout import bad_gguf, shown
from opta_lmx.models.gguf_types import F32, I8, I32, STRING, U8, U32

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.IGNORECASE)
MAX_PARTS = 1000

_PREFIX = "tokenizer.ggml."
_TOKENS = _PREFIX + "tokens"
_TOKENIZER_ARRAYS = {
    _TOKENS: (STRING,),
    _PREFIX + "merges": (STRING,),
    _PREFIX + "scores": (F32, I32),
    _PREFIX + "token_type": (I32, U32),
    _PREFIX + "precompiled_charsmap": (U8, I8),
}
"""Arrays of the tokenizer and the types their elements may have; llama.cpp casts, unasked."""
_PER_TOKEN = (_PREFIX + "scores", _PREFIX + "token_type")
_EMBEDDINGS = "token_embd.weight"


def gguf_parts(path: Path) -> list[Path]:
    """The files a GGUF model consists of: `path` itself, or all parts of a numbered split.

    Raises:
        LmxError: code `invalid_gguf`, when parts are missing or `path` is not the first.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if int(match["number"]) != 1 or not 1 <= count <= MAX_PARTS:
        raise bad_gguf("it is a later part of a split file; name the first part")
    names = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    parts = [path, *(path.with_name(name) for name in names[1:])]
    for part in parts:
        if not part.is_file():
            raise bad_gguf(f"its part {part.name} is missing")
    return parts


def read_checked(path: Path) -> list[GgufHeader]:
    """Read and validate every part of a GGUF file: a model, a draft model, an adapter, a projector.

    Returns:
        One header for each part, in order.

    Raises:
        LmxError: INVALID_REQUEST, code `invalid_gguf`; the message says what is wrong and where.
    """
    parts = gguf_parts(path)
    headers: list[GgufHeader] = []
    for part in parts:
        headers.append(read_gguf_header(part))
        _check_place(headers[-1], len(headers), len(parts))
    _check_split(headers)
    _check_tokenizer(headers[0])
    _check_embeddings(headers)
    return headers


def _check_place(header: GgufHeader, number: int, count: int) -> None:
    """A part is read on only while each says it is the one that its name says (from 1)."""
    if count > 1:
        _check_declared(header, number, {"split.count": count, "split.no": number - 1})


def _check_declared(header: GgufHeader, number: int, expected: dict[str, int]) -> None:
    for key, value in expected.items():
        declared = header.metadata.get(key, value)
        if declared != value:
            raise bad_gguf(f"part {number} has a {key} of {shown(str(declared))}")


def _check_split(headers: Sequence[GgufHeader]) -> None:
    """What the parts say of themselves must be what their names say: llama.cpp goes by both."""
    if len(headers) == 1:
        # A file whose parts were put together again says 0.
        if headers[0].metadata.get("split.count", 0) not in (0, 1):
            raise bad_gguf("it says that it is one part of several, and its name does not")
        return
    tensors = sum(len(header.tensors) for header in headers)
    seen: set[str] = set()
    for number, header in enumerate(headers, 1):
        _check_declared(header, number, {"split.tensors.count": tensors})
        for tensor in header.tensors:
            if tensor.name in seen:
                raise bad_gguf(f"two parts have a tensor {shown(tensor.name)}")
            seen.add(tensor.name)


def _check_tokenizer(header: GgufHeader) -> None:
    """Arrays of the vocabulary have the right type, and cover all of its words."""
    lengths, types = header.array_lengths, header.array_types
    for key, allowed in _TOKENIZER_ARRAYS.items():
        if key not in lengths and key in header.metadata:
            raise bad_gguf(f"its {key} is no array")
        if key in types and types[key] not in allowed:
            raise bad_gguf(f"its {key} has elements of type {types[key]}")
    words = lengths.get(_TOKENS, 0)
    for key in _PER_TOKEN:
        if key in lengths and lengths[key] < words:
            raise bad_gguf(f"its {key} has {lengths[key]} elements for {words} tokens")


def _check_embeddings(headers: Sequence[GgufHeader]) -> None:
    """The table of vectors has a row for each word, no more and no less."""
    words = headers[0].array_lengths.get(_TOKENS, 0)
    tensors = (tensor for header in headers for tensor in header.tensors)
    found = next((tensor for tensor in tensors if tensor.name == _EMBEDDINGS), None)
    if found is None or not words:
        return
    rows = found.shape[1] if len(found.shape) > 1 else 1
    if rows != words:
        raise bad_gguf(f"its {_EMBEDDINGS} has {rows} rows for {words} tokens")
