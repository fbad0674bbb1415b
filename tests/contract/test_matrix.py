"""Each row of the compatibility matrix is true: supported fields answer, refused ones are named."""

import re

import pytest

from tests.contract.matrix.model import BACKENDS, Row, Surface
from tests.contract.matrix.operators import OPERATORS
from tests.contract.matrix.render import DOCUMENT, document
from tests.contract.matrix.surfaces import MODELS, SURFACES
from tests.support.process import ServerProcess

FAILED = re.compile(r'"error":(?!null)')
ROWS = [
    pytest.param(surface, row, backend, id=f"{surface.path}-{row.field}-{backend}")
    for surface in SURFACES
    for row in surface.rows
    for backend in BACKENDS
]


@pytest.mark.parametrize(("surface", "row", "backend"), ROWS)
def test_a_row_is_true(
    tiny_server: ServerProcess, surface: Surface, row: Row, backend: str
) -> None:
    model = f"{MODELS[surface.kind]}-{backend}"
    body = {"model": model, **surface.least, **row.probe}
    reply = tiny_server.http.post(f"{tiny_server.url}{surface.path}", json=body)
    if row.status_on(backend) in ("refused", "by model"):
        assert reply.status_code == 400, reply.text
        assert re.search(rf"\b{row.field.rpartition('.')[2]}\b", reply.text), reply.text
    else:
        assert reply.status_code == 200, reply.text
        assert not FAILED.search(reply.text), reply.text


def test_the_document_is_what_the_rows_say() -> None:
    assert DOCUMENT.read_text() == document(), "run `make docs`"


def test_every_route_for_operators_is_there_or_has_a_reason(tiny_server: ServerProcess) -> None:
    paths = tiny_server.http.get(f"{tiny_server.url}/openapi.json").json()["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {one.ours for one in OPERATORS if one.ours} <= there
    assert all(one.note for one in OPERATORS if not one.ours)
