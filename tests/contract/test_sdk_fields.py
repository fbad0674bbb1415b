"""No field of a client's own request type is dropped in silence: it is in the matrix, or a 400."""

import re

import pytest

from tests.contract.matrix import walk
from tests.contract.matrix.model import EVERYTHING, Surface
from tests.contract.matrix.surfaces import MODELS, SURFACES
from tests.support.process import ServerProcess

TYPED = [pytest.param(surface, id=surface.path) for surface in SURFACES if surface.sdk]
WHY = re.compile(r"not supported|are supported|is unknown")
"""Of what holds the field, or of its neighbour: what is inside need not be named then."""


def listed(surface: Surface) -> set[str]:
    parts = {f"{row.field}.{part}" for row in surface.rows for part in row.parts}
    return parts | {row.field for row in surface.rows}


def is_known(surface: Surface, path: str) -> bool:
    """Whether a row speaks of a field, or of all that is inside one that holds it."""
    known = listed(surface)
    names = path.split(".")
    above = (".".join([*names[:end], EVERYTHING]) for end in range(1, len(names)))
    return path in known or not known.isdisjoint(above)


@pytest.mark.parametrize("surface", TYPED)
def test_every_outer_field_has_a_row(surface: Surface) -> None:
    assert surface.sdk is not None
    outer = {found.path for found in walk.fields(walk.load(surface.sdk)) if "." not in found.path}
    assert outer - listed(surface) - {"model"} == set()


@pytest.mark.parametrize("surface", TYPED)
def test_what_no_row_names_is_refused(tiny_server: ServerProcess, surface: Surface) -> None:
    """Fields inside others, in each of the types that have them."""
    assert surface.sdk is not None
    silent: list[str] = []
    for path, probe in walk.fields(walk.load(surface.sdk)):
        if "." not in path or is_known(surface, path):
            continue
        body = {**surface.least, **probe, "model": f"{MODELS[surface.kind]}-gguf"}
        reply = tiny_server.http.post(f"{tiny_server.url}{surface.path}", json=body)
        named = path.rpartition(".")[2] in reply.text or WHY.search(reply.text)
        if reply.status_code != 400 or not named:
            silent.append(f"{path}: {reply.status_code} {reply.text[:200]}")
    assert silent == [], "\n".join(silent)
