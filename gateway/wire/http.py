"""
Detection of HTTP among lines: a web page can make any browser open a connection to this machine.

C{fetch(url, {mode: "no-cors", method: "POST", body: ...})} needs no permission to send its
body, so a line of it would be a message, or a command. The page cannot choose how such a
connection begins: a request line, then C{Host:} (RFC 9112, sections 3 and 3.2).
"""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 8192
"""
Bytes of a first line that are looked at. A request line may be longer, but says what it is
before that.
"""

_REQUEST: Final = rb"[!-~]+ (?:/|\*|[A-Za-z][A-Za-z0-9+.-]*://)"
_BEGINNING: Final = re.compile(_REQUEST)
_FIRST_LINE: Final = re.compile(
    rb"(?:%b[^ ]*|CONNECT [^ ]+) HTTP/[0-9.]+\r?|(?i:host):[\t ]*[^\t ]*[\t ]*\r?" % _REQUEST
)


class FirstLine:
    """
    Test of a stream's first line for HTTP.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen = b""

    def is_http(self, data: bytes) -> bool | None:
        """
        Say whether the stream begins as HTTP does; C{None} as long as more bytes are needed.

        @param data: the next bytes.
        """
        seen = self._seen + data[: _LONGEST + 1 - len(self._seen)]
        line, end, _ = seen.partition(b"\n")
        if end:
            return _FIRST_LINE.fullmatch(line) is not None
        if len(seen) > _LONGEST:
            return _BEGINNING.match(seen) is not None
        self._seen = seen
        return None
