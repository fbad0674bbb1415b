"""Where models lie and come from: the section `models`."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.base import FilePath, Name, Seconds, Secret, Section

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_MODEL = re.compile(rf"{_PART}(/{_PART})?(:(mlx|gguf))?")
_ADAPTER = re.compile(_PART)


def _is_model(name: str) -> str:
    if not _MODEL.fullmatch(name):
        raise PydanticCustomError(
            "no_model", "Adapters belong to a model's own name, or `NAME:mlx`, `NAME:gguf`"
        )
    return name


def _is_adapter(name: str) -> str:
    if not _ADAPTER.fullmatch(name) or name.lower() in ("mlx", "gguf"):
        raise PydanticCustomError(
            "no_adapter_name",
            "An adapter's name has letters, digits, '.', '_' and '-', and is neither mlx nor gguf",
        )
    return name


_ModelKey = Annotated[str, AfterValidator(_is_model)]
_AdapterName = Annotated[str, AfterValidator(_is_adapter)]


class ModelsSettings(Section):
    """Where models lie and where they come from."""

    dir: FilePath | None = Field(
        default=None,
        description="Folder of the model store; unset: `models` in the home folder.",
    )
    hub_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+",
        description="Address of the model hub; unset: the Hugging Face hub.",
    )
    downloads_enabled: bool = Field(
        default=True, description="Whether models may be fetched at all."
    )
    confirm_bytes: int = Field(
        default=4_000_000_000,
        ge=0,
        description="Hub models larger than this are fetched once that is confirmed; 0: all are "
        "fetched at once.",
    )
    resume_downloads: bool = Field(
        default=False,
        description="Whether downloads that the server's end cut short go on at its next start, "
        "or when they are asked for again.",
    )
    quantise_timeout_s: Seconds = Field(
        default=3600.0, description="Longest time one quantising job may take."
    )
    hub_token: Secret | None = Field(default=None, description="Access token for gated hub models.")
    aliases: dict[Name, Name] = Field(
        default={},
        description="Other names for models: each for a stored model, `NAME:mlx` or `NAME:gguf`, "
        "or with an adapter, `NAME:ADAPTER`.",
    )
    adapters: dict[_ModelKey, dict[_AdapterName, FilePath]] = Field(
        default={},
        description="LoRA adapters of a model (`NAME`, `NAME:mlx`, `NAME:gguf`), each with a name: "
        "folders made by mlx-lm for MLX, `.gguf` files for llama.cpp; asked for as "
        "`MODEL:ADAPTER`.",
    )

    def root(self, home: Path) -> Path:
        """The store's folder; a relative `dir` is taken from `home`."""
        return home / self.dir.expanduser() if self.dir else home / "models"
