"""What is in a model's files, read without loading anything."""

from pathlib import Path

from opta_lmx.core.errors import invalid
from opta_lmx.models.description import Format, KvGroup, ModelInfo
from opta_lmx.models.folder_info import PICKLES, read_folder_info, refuse_pickles
from opta_lmx.models.gguf_info import read_gguf_info

__all__ = ["Format", "KvGroup", "ModelInfo", "read_info"]


def read_info(path: Path) -> ModelInfo:
    """Read and validate a `.gguf` file or a model folder (config.json and safetensors).

    Raises:
        LmxError: INVALID_REQUEST with code `invalid_gguf`, `invalid_safetensors`,
            `invalid_config`, `no_weights` or `not_a_model`; FORBIDDEN with code
            `remote_code_refused` or `pickle_refused`.
    """
    if path.is_dir():
        return read_folder_info(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return read_gguf_info(path)
    if path.suffix in PICKLES:
        raise refuse_pickles()
    raise invalid(f"'{path.name}' is neither a GGUF file nor a model folder.", code="not_a_model")
