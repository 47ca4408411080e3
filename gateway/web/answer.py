"""
Values between the HTTP protocol and the pages: a request as far as a page needs it, and its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

TEXT: Final = "text/plain; charset=utf-8"
"""Content type of everything that is not asked for by a browser."""


class Query(NamedTuple):
    """
    Request as a page sees it; its method is GET or HEAD.

    @ivar path: as sent, without the arguments.
    @ivar arguments: those behind the question mark, in the order of their names' first values.
    @ivar accept: header C{Accept}; C{""}: there is none.
    """

    path: str
    arguments: Mapping[str, Sequence[str]]
    accept: str = ""


class Answer(NamedTuple):
    """
    Answer to a request.

    @ivar code: status code of HTTP.
    @ivar kind: its content type.
    @ivar headers: more headers.
    """

    code: int
    body: bytes
    kind: str = TEXT
    headers: Mapping[str, str] = {}


def text(code: int, *lines: str) -> Answer:
    """Return an answer in plain text."""
    return Answer(code, "".join(f"{line}\n" for line in lines).encode())
