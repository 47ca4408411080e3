"""
A status with names that nobody should be shown as they are.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from gateway.status.status import Status, Warning
from tests.web import made

HOSTILE: Final = "\x1b[2J\nERROR \u202e\u2028OK"
"""A name that clears a screen, begins a line, and has text read backwards."""


def hostile() -> Status:
    """Hostile names and figures as large as they become in years."""
    status = made.troubled()
    years = dict.fromkeys(("+OK", "+DUP", "+QUE", "-REJ DATA", "-TRY DOWN", "-BYE RATE"), 10**12)
    return replace(
        status,
        reasons=(HOSTILE,),
        warnings=(Warning(code="refusals", subject=HOSTILE, text=HOSTILE * 9),),
        listeners=(
            made.listener(
                HOSTILE, address=HOSTILE, let_go={HOSTILE: 1}, answers=years, peers=16384
            ),
        ),
        routes=(
            made.route(
                HOSTILE, state="out of service", reason=HOSTILE, rows=10**12, dead_letters=10**9
            ),
        ),
        pools=(made.pool(trouble=HOSTILE, server=HOSTILE),),
        channels=(replace(status.channels[0], name=HOSTILE),),
        certificates=(replace(status.certificates[0], subject=HOSTILE),),
    )
