"""Finds out which requests of one model kill its workers: who begins when, who is refused."""

import asyncio
from collections.abc import Mapping

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.convicts import Asked, Convicts, digest
from opta_lmx.engine.course import Course
from opta_lmx.engine.suspects import Suspects, Verdict
from opta_lmx.scheduling.fair_line import FairLine


class Trials:
    """Asked before anything goes to the worker, and told what came of it.

    Args:
        line: says who begins next.
        rows: who holds slots, always as it is now.
        waiting: who has not taken its slot, if it has one.
        courses: answers under way, always as they are now.
        clock: time.

    Attributes:
        serving: a worker is there.
        closed: why the model is out of service, once it is.
    """

    def __init__(
        self,
        line: FairLine,
        rows: set[int],
        waiting: Mapping[int, object],
        courses: Mapping[int, Course],
        clock: Clock,
    ) -> None:
        self._line = line
        self._rows = rows
        self._not_begun = waiting
        self._courses = courses
        self.suspects = Suspects()
        self.convicts = Convicts(clock)
        self.serving = False
        self.closed: LmxError | None = None
        self._verdict = Verdict.OPEN
        self._prompts: dict[int, Asked] = {}
        self._waiting: list[asyncio.Future[None]] = []

    # --- rows -----------------------------------------------------------------

    def admits(self, ticket: int) -> bool:
        """True when a row may begin now."""
        return self.suspects.admits(ticket, self._rows)

    def grant(self) -> int | None:
        """Give a free slot to whoever is next, if it may begin."""
        if not self.suspects.none:
            upcoming = self._line.upcoming()
            if upcoming is None or not self.admits(upcoming.number):
                return None
        return self._line.grant()

    # --- prompts --------------------------------------------------------------

    async def enter(self, ticket: int, prompt: Asked) -> None:
        """Return when a prompt may be prepared. Raises what ends the wait."""
        self.convicts.refuse(prompt)
        while not self._admits_prompt(ticket):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
            self.convicts.refuse(prompt)
        self._prompts[ticket] = prompt
        self.suspects.prepares(ticket)

    def _admits_prompt(self, ticket: int) -> bool:
        if self.closed is not None:
            raise self.closed.again()
        if not self.serving or self.suspects.none:
            return self.serving
        upcoming = self._line.upcoming()
        number = None if upcoming is None else upcoming.number
        return self.suspects.admits_prompt(ticket, self._rows, number)

    def prepared(self, ticket: int) -> bool:
        """A prompt is prepared, or given up; True when others may have waited for that."""
        waited_for = not self.suspects.none
        self._prompts.pop(ticket, None)
        self.suspects.prepared(ticket)
        return waited_for and self.serving

    def changed(self) -> None:
        """Somebody has come or gone: prompts that wait look again."""
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    # --- deaths ---------------------------------------------------------------

    def died(self) -> set[int]:
        """Take in the death of the worker.

        Returns:
            Who is on its way with the very request that kills.
        """
        self.serving = False
        self._verdict = self.suspects.died(self._inside)
        found: list[Asked] = [
            prompt for ticket, prompt in self._prompts.items() if self.suspects.convicted(ticket)
        ]
        found += [
            course.request
            for ticket, course in self._courses.items()
            if self.suspects.convicted(ticket)
        ]
        self._prompts.clear()
        # Where nobody came through, it may as well be the model.
        for asked in found if self._verdict is Verdict.REQUEST else ():
            self.convicts.add(asked)
        return self._convict_twins({digest(asked) for asked in found})

    def _convict_twins(self, kills: set[bytes]) -> set[int]:
        twins = set[int]()
        if kills:
            twins = {n for n, course in self._courses.items() if digest(course.request) in kills}
        for ticket in twins:
            self.suspects.convict(ticket)
        return twins

    def parted(self) -> None:
        """The worker was ended for reasons of ours, so that nobody is suspected."""
        self.serving = False
        self._prompts.clear()
        self.suspects.parted()

    @property
    def _inside(self) -> set[int]:
        return self._rows - self._not_begun.keys()

    def verdict(self) -> Verdict:
        """What the end of the worker, or its end now, says of the model; of each end once."""
        if self.serving:
            return self.suspects.verdict(self._inside)
        found, self._verdict = self._verdict, Verdict.OPEN
        return found
