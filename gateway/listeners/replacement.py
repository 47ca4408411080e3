"""
Replace the ports of listeners by others: all are open before any is given up.

A new port is opened before an old one is closed. One that cannot be, because an old one is in its
place, is opened when the old ones are closed; if it still cannot, these are opened again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.listeners.port import PortFault


class ReplaceablePort(Protocol):
    """
    Port that may be opened, closed, and opened again.
    """

    def open_port(self, *, accepts: bool = True) -> PortFault | None:
        """Open it, and say why that is not possible."""

    def accept(self) -> None:
        """Accept connections."""

    async def close_port(self) -> None:
        """Close it."""


class PortReplacement:
    """
    Ports that a reload opens and closes.

    @ivar opened: listener -> port that is opened.
    @ivar closed: listener -> port that is closed.
    """

    def __init__(
        self, opened: Mapping[str, ReplaceablePort], closed: Mapping[str, ReplaceablePort]
    ) -> None:
        self.opened = opened
        self.closed = closed
        self._are_closed = False

    async def open(self, *, may_close: bool) -> list[str]:
        """
        Open the new ports; connections to them wait until they are accepted.

        @param may_close: whether the old ports may be closed for that.
        @return: a line for each that cannot be opened.
        """
        faults = self._open()
        if not faults or not may_close:
            return _lines(faults)
        if not self.closed or not all(fault.is_in_use for fault in faults.values()):
            return _lines(faults)
        self._are_closed = True
        for service in self.closed.values():
            await service.close_port()
        return _lines(self._open())

    async def undo(self, *, reopens: bool) -> list[str]:
        """
        Close the new ports, and open the old ones again.

        @param reopens: whether old ones are opened; not where the gateway stops.
        @return: a line for each that cannot be opened again.
        """
        for service in self.opened.values():
            await service.close_port()
        if not (reopens and self._are_closed):
            return []
        faults = {name: service.open_port() for name, service in self.closed.items()}
        return _lines({name: fault for name, fault in faults.items() if fault is not None})

    def accept(self) -> None:
        """Accept the connections to the new ports."""
        for service in self.opened.values():
            service.accept()

    async def close(self) -> None:
        """Close the old ports."""
        for service in self.closed.values():
            await service.close_port()

    def _open(self) -> dict[str, PortFault]:
        faults = {name: service.open_port(accepts=False) for name, service in self.opened.items()}
        return {name: fault for name, fault in faults.items() if fault is not None}


def _lines(faults: Mapping[str, PortFault]) -> list[str]:
    return [f"listeners.{name}.endpoint: {fault.text}" for name, fault in faults.items()]
