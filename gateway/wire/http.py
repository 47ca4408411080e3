"""
Detection of other protocols among lines, by how a connection begins: HTTP, and TLS.

HTTP, since a web page can make any browser open a connection to this machine.

C{fetch(url, {mode: "no-cors", method: "POST", body: ...})} needs no permission to send its
body, so a line of it would be a message, or a command. The page cannot choose how such a
connection begins: a request line, then C{Host:} (RFC 9112, sections 3 and 3.2).

TLS, since its hello holds bytes that end frames, and whoever sends one here has the wrong port.
"""

from __future__ import annotations

import re
from typing import Final

_MAX_FIRST_LINE: Final = 8192
"""
Bytes of a first line that are looked at. A request line may be longer, but says what it is
before that.
"""

_REQUEST: Final = rb"[!-~]+ (?:/|\*|[A-Za-z][A-Za-z0-9+.-]*://)"
_BEGINNING: Final = re.compile(_REQUEST)
_FIRST_LINE: Final = re.compile(
    rb"(?:%b[^ ]*|CONNECT [^ ]+) HTTP/[0-9.]+\r?|(?i:host):[\t ]*[^\t ]*[\t ]*\r?" % _REQUEST
)


_TLS_HELLO: Final = re.compile(rb"\x16\x03[\0-\x04]..\x01", re.DOTALL)
"""
A record of a handshake that begins with a client's hello (RFC 8446, sections 4 and 5.1).
"""

_HELLO_SO_FAR: Final = re.compile(rb"\x16(?:\x03(?:[\0-\x04].{0,2})?)?", re.DOTALL)

_HTTP: Final = "this is no HTTP server, and takes nothing from web pages"
NO_TLS: Final = "this listener has no TLS, and the connection begins with a TLS handshake"


class FirstLine:
    """
    Test of a stream's first line for other protocols.

    @ivar waits: whether nothing is to be cut into frames before more of it has come.
    """

    __slots__ = ("_seen", "waits")

    def __init__(self) -> None:
        self._seen = b""
        self.waits = False

    def foreign(self, data: bytes) -> str | None:
        """
        Say why a stream is not taken; C{""}: it is; C{None} as long as more bytes are needed.

        @param data: the next bytes.
        """
        seen = self._seen + data[: _MAX_FIRST_LINE + 1 - len(self._seen)]
        if _TLS_HELLO.match(seen):
            return NO_TLS
        self.waits = _HELLO_SO_FAR.fullmatch(seen) is not None
        line, end, _ = seen.partition(b"\n")
        if end and not self.waits:
            return _HTTP if _FIRST_LINE.fullmatch(line) else ""
        if len(seen) > _MAX_FIRST_LINE:
            return _HTTP if _BEGINNING.match(seen) else ""
        self._seen = seen
        return None
