"""What all sections are made of: their base, and the types that several of them use."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

DAY_S = 86_400.0
LONGEST_KEPT_S = 3650 * DAY_S


def _usable_key(key: SecretStr) -> SecretStr:
    """Refuse keys no HTTP header can carry; a blank one would let anybody in."""
    text = key.get_secret_value()
    if not text or not all("!" <= char <= "~" for char in text):
        raise PydanticCustomError(
            "unusable_key", "A key must be visible ASCII characters without spaces"
        )
    return key


Secret = Annotated[SecretStr, AfterValidator(_usable_key)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=512)]
Seconds = Annotated[float, Field(gt=0, le=DAY_S)]
FilePath = Annotated[Path, Field(strict=False)]


class Section(BaseModel):
    """Base of all sections: immutable, exact types, nothing unknown, no NaN."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )
