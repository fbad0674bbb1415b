"""Names in the bodies of the admin routes have a length that can be repeated in an answer."""

import pytest
from pydantic import ValidationError

from opta_lmx.api.admin.models import LoadBody


@pytest.mark.parametrize("model", ["", "x" * 513])
def test_a_model_to_load_has_a_name(model: str) -> None:
    with pytest.raises(ValidationError):
        LoadBody(model=model)
    assert LoadBody(model="x" * 512, backend="mlx").ref() == "x" * 512 + ":mlx"
