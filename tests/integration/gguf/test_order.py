"""In which order llama.cpp processes prompts that came together."""

import pytest

from opta_lmx.backends.frames import Step
from tests.support.gguf_child import Child
from tests.support.tiny import tiny_gguf

pytestmark = pytest.mark.engine
LONG, SHORT = 3000, 100


def words(seed: int, count: int) -> tuple[int, ...]:
    return tuple(100 + (seed * 7919 + place * 104_729) % 3900 for place in range(count))


def finished(child: Child, *numbers: int) -> list[int]:
    """These requests, in the order in which their prompts were processed."""
    order = [out.request for step in child.of(Step) for out in step.tokens]
    return sorted(numbers, key=order.index)


@pytest.mark.parametrize("alone", [True, False])
def test_who_has_nothing_running_passes_the_prompts_of_who_has(alone: bool) -> None:
    """The second and third of one key are still to be processed when another key's comes."""
    with Child(tiny_gguf(), context=4096, slots=4) as child:
        child.ready()
        first = child.submit(words(1, LONG), max_tokens=1, first=True)
        second, third = (child.submit(words(n, LONG), max_tokens=1) for n in (2, 3))
        child.read_until(lambda: bool(child.prefill(first)))
        other = child.submit(words(4, SHORT), max_tokens=1, first=alone)
        child.wait(first, second, third, other)
        order = finished(child, first, second, third, other)
    # What is in the batch already is not turned back; all that follows is.
    assert order.index(other) <= (1 if alone else 3)
    assert order[0] == first
