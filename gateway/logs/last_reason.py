"""
Log a lasting trouble once: again only when its reason is another, or after it was over.

What is tried again and again fails again and again, mostly for the same reason.
"""

from __future__ import annotations


class LastReason:
    """
    Reason of a trouble, as it was logged last.

    @ivar text: C{""} where there is none.
    """

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = ""

    def note(self, reason: str) -> bool:
        """Keep a reason; return whether it is another than the last, so that it is logged."""
        if reason == self.text:
            return False
        self.text = reason
        return True

    def forget(self) -> bool:
        """Note that the trouble is over; return whether there was any."""
        was_any = bool(self.text)
        self.text = ""
        return was_any
