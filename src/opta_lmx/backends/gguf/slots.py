"""Which slot of llama.cpp a request runs on, and who waits for cache room: pure bookkeeping."""

from collections import deque
from collections.abc import Iterable

from opta_lmx.backends.frames import Submit


class _Slot:
    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: tuple[int, ...] = ()
        self.cells = 0
        self.used_at = 0


class SlotTable:
    """Gives each request the free slot that remembers most of its prompt.

    Where the caches are shared, a request starts only when its prompt and its longest answer
    fit beside the others; those that do not fit wait in order of arrival.
    """

    def __init__(self, slots: int, cells: int) -> None:
        self._free = [_Slot(number) for number in range(slots)]
        self._taken: dict[int, _Slot] = {}
        self._line: deque[Submit] = deque()
        self._cells = cells
        self._clock = 0

    def __len__(self) -> int:
        return len(self._taken) + len(self._line)

    def add(self, request: Submit) -> None:
        """Put a request at the end of the line."""
        self._line.append(request)

    def withdraw(self, request: int) -> bool:
        """Take a request out of the line; False when it is not waiting there."""
        for waiting in self._line:
            if waiting.id == request:
                self._line.remove(waiting)
                return True
        return False

    def start(self) -> tuple[Submit, int, int] | None:
        """Start the next request: it, its slot, and the prompt tokens that slot remembers."""
        if not self._line or not self._free:
            return None
        request = self._line[0]
        best = max(self._free, key=lambda slot: (common(slot.tokens, request.ids), -slot.used_at))
        # A started slot holds its old tokens until its turn to prefill comes, and llama.cpp
        # clears idle slots only.
        cells = max(len(request.ids) + request.max_tokens, len(best.tokens))
        used = sum(slot.cells for slot in self._taken.values())
        if used and used + cells > self._cells:
            return None
        self._line.popleft()
        cached = common(best.tokens, request.ids)
        self._free.remove(best)
        best.tokens, best.cells = request.ids, cells
        self._taken[request.id] = best
        return request, best.number, cached

    def release(self, request: int, answer: Iterable[int]) -> None:
        """Free a running request's slot, which now remembers its prompt and `answer`."""
        slot = self._taken.pop(request)
        self._clock += 1
        slot.tokens, slot.cells, slot.used_at = (*slot.tokens, *answer), 0, self._clock
        self._free.append(slot)


def common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """How many tokens two prompts share at their start, found by halving: slices compare fast."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
