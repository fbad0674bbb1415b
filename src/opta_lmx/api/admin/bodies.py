"""What operators send, read and checked in one way."""

from typing import TypeVar

from starlette.requests import Request

from opta_lmx.api.body import OPERATORS_BYTES, read_body
from opta_lmx.api.fields import WireModel, validated
from opta_lmx.api.json_body import decode_object

_TIMEOUT_S = 10.0
Body = TypeVar("Body", bound=WireModel)


async def read(request: Request, kind: type[Body], *, may_be_empty: bool = False) -> Body:
    """Read a body of this kind.

    Args:
        request: whose.
        kind: which fields it may have; others are refused by name.
        may_be_empty: no body at all stands for no fields.

    Raises:
        LmxError: what is wrong with it, with the field's name.
    """
    data = await read_body(request, limit=OPERATORS_BYTES, timeout_s=_TIMEOUT_S)
    return validated(kind, {} if may_be_empty and not data else decode_object(data))
