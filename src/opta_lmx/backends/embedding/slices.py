"""Long texts in pieces, so that one that is far too long is not tokenized whole."""

from collections.abc import Iterator

SLICE = 32 * 1024
"""Characters; far more than the tokens of any usual window."""
_LOOK_BACK = 1024


def slices(text: str) -> Iterator[str]:
    """Cut a text into pieces of at most `SLICE` characters, before spaces where there are some."""
    begin = 0
    while len(text) - begin > SLICE:
        end = begin + SLICE
        space = max(text.rfind(mark, end - _LOOK_BACK, end) for mark in " \n\t")
        end = space if space > begin else end
        yield text[begin:end]
        begin = end
    yield text[begin:]
