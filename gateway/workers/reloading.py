"""
Steps of a reload of several processes, as the parent asks for them and a worker reports.

Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

PREPARE: Final = "prepare"
"""Name of the question that brings a configuration to prepare; answered by L{Report}."""

TAKE: Final = "take"
"""Name of the question to take over what was prepared; answered by L{Report}."""

UNDO: Final = "undo"
"""Name of the question to give it up."""

CERTIFICATES: Final = "certificates"
"""Name of the push that brings the content of TLS files that changed."""


class Report(msgspec.Struct, frozen=True, array_like=True):
    """
    Report of a worker on one step of a reload.

    @ivar problems: why it cannot be taken over, a line each.
    @ivar notes: lines for the operator.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
