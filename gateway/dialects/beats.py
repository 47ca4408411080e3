"""
Beats' dialect: windows of events, each stored whole and acknowledged as one.

A window is a unit. Its acknowledgement says that each of its events is stored, in the spool, or
refused and kept as a dead letter. Where one is none of these, nothing is acknowledged and the
connection ends, so that the sender sends the whole window again: no other word of Lumberjack says
that something is wrong.
"""

from __future__ import annotations

from typing import Final

from gateway.dialects.acknowledging import AcknowledgingReader
from gateway.model.outcome import Run, is_kept
from gateway.wire.lumberjack import KEEPALIVE, Window, acknowledgement

KEEPALIVE_EVERY: Final = 10.0
"""
Seconds. Beats wait 30 for an answer, and with each one anew; Logstash says it as often where its
pipeline is blocked.
"""


class BeatsReader(AcknowledgingReader):
    """
    Reader of one peer's windows.
    """

    async def handle(self, frames: list[bytes]) -> bool:
        for window in frames:
            assert isinstance(window, Window)
            runs = await self._store(window) if window.events else []
            if not all(is_kept(fate) for _, fate in runs):
                self.give_up(runs)
                return True
            self.write(acknowledgement(window), runs)
            if self._hurried:
                # What is behind it is not begun: the sender could not hear of it.
                return True
        return False

    async def _store(self, window: Window) -> list[Run]:
        events, most = window.events, self.settings.max_frame
        oversize: list[int] = []
        if max(map(len, events)) > most:
            oversize = [place for place, event in enumerate(events) if len(event) > most]
        if window.version == b"1":
            # To its sender any acknowledgement is that of the window.
            return await self.store(events, oversize=oversize)
        with self.every(KEEPALIVE_EVERY, KEEPALIVE):
            return await self.store(events, oversize=oversize)
