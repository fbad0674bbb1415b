"""Looks for marks in generated text, piece by piece: outside JSON strings, or cut at its end."""

import re

_IN_STRING = re.compile(r'["\\]')


class StringAware:
    """Finds characters that stand outside JSON strings, however the text is split.

    Args:
        marks: the characters to find.
        strings: whether quotes count; without, every mark is found.
    """

    def __init__(self, marks: str, *, strings: bool = True) -> None:
        quote = '"' if strings else ""
        self._marks = re.compile(f"[{quote}{re.escape(marks)}]")
        self._quoted = False
        self._escaped = False

    def find(self, text: str, position: int) -> int:
        """Return the index of the next mark at or after `position`, -1 when the text ends."""
        while position < len(text):
            if self._quoted:
                position = self._through_string(text, position)
                continue
            found = self._marks.search(text, position)
            if found is None:
                return -1
            if found.group() != '"':
                return found.start()
            self._quoted = True
            position = found.end()
        return -1

    def _through_string(self, text: str, position: int) -> int:
        if self._escaped:
            self._escaped = False
            position += 1
        found = _IN_STRING.search(text, position)
        if found is None:
            return len(text)
        if found.group() == '"':
            self._quoted = False
        else:
            self._escaped = True
        return found.end()


def cut_marker(text: str, start: int, marker: str) -> int:
    """Return how many characters at the end of `text[start:]` may be the start of `marker`."""
    for size in range(min(len(marker) - 1, len(text) - start), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0
