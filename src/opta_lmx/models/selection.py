"""Which files of a folder or repository belong to a model."""

import re
from pathlib import Path

from opta_lmx.core.errors import invalid
from opta_lmx.models.folder_info import weight_files
from opta_lmx.models.gguf_check import gguf_parts
from opta_lmx.models.manifest import MANIFEST

_WEIGHTS = re.compile(r"model[^/]*\.safetensors")
_BESIDE = re.compile(
    r"[^/]+\.(json|jinja|model|tiktoken)|(vocab|merges|added_tokens|special_tokens)[^/]*\.txt"
    r"|(LICEN[CS]E|NOTICE|USE_POLICY|COPYING)[^/]*",
    re.IGNORECASE,
)
_POOLING = re.compile(r"1_Pooling/config\.json")
"""How sentence-transformers say what becomes of an encoder's token vectors."""


def belongs(name: str) -> bool:
    """True for the files of a model folder: weights, configuration, tokenizer, licence.

    `name` is relative to the folder; one file in a subfolder belongs too.
    """
    if name.startswith(".") or name == MANIFEST:
        return False
    return any(pattern.fullmatch(name) for pattern in (_WEIGHTS, _BESIDE, _POOLING))


def stored_name(name: str) -> str:
    """The name under which the store, which has no subfolders, keeps a model's file."""
    return name.replace("/", "_")


def files_of(source: Path) -> list[Path]:
    """The files to take from a GGUF file (with its parts) or a model folder.

    Links are followed, since hub caches are made of them: the caller named the folder.
    """
    if not source.is_dir():
        return gguf_parts(source)
    weight_files(source)
    files = sorted(path for path in source.iterdir() if belongs(path.name))
    pooling = source / "1_Pooling" / "config.json"
    if pooling.is_file():
        files.append(pooling)
    for path in files:
        if not path.is_file():
            raise invalid(f"'{path.name}' is not a regular file.", code="not_a_model")
    return files
