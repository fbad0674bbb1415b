"""A client that stops reading: how it is noticed."""

import asyncio

_CHECKS = 4


class WriteWatch:
    """Aborts a transport whose unsent bytes do not become fewer for `timeout_s` seconds.

    To be started when nothing more will be written for now, so that growth is no excuse.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._period_s = timeout_s / _CHECKS
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._idle_checks = 0

    def start(self) -> None:
        """Begin to watch; no effect while watching."""
        if self._timer is None:
            self._unsent = self._transport.get_write_buffer_size()
            self._idle_checks = 0
            self._timer = self._loop.call_later(self._period_s, self._check)

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        unsent = self._transport.get_write_buffer_size()
        if not unsent:
            return
        self._idle_checks = self._idle_checks + 1 if unsent >= self._unsent else 0
        self._unsent = unsent
        if self._idle_checks >= _CHECKS:
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(self._period_s, self._check)
