"""Where models lie and come from: the section `models`."""

from pathlib import Path

from pydantic import Field

from opta_lmx.config.sections.base import FilePath, Name, Seconds, Secret, Section


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
        description="Other names for models: each for a stored model, or `NAME:mlx`, `NAME:gguf`.",
    )

    def root(self, home: Path) -> Path:
        """The store's folder; a relative `dir` is taken from `home`."""
        return home / self.dir.expanduser() if self.dir else home / "models"
