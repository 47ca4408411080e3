"""
What peers say in the command dialect, and what they must then be told.

Frames are made from the grammar in C{docs/protocol.md}, with the names that the gateways
of the tests have; some are spoiled, so that they are almost right. What each of them must
be answered is judged by the documentation alone: by its grammar, and by what the peer said
before. Answers are then held against that, one by one and in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Final

from gateway.wire.framing import FRAMINGS
from tests.abnf import JSON, Grammar

DOCUMENTED: Final = Grammar.of(Path(__file__).parent.parent / "docs" / "protocol.md")

SPOKEN: Final = DOCUMENTED.extended(
    JSON
    + """
command = put / put / put / put / call / listen / hello / ping / "QUIET" / "SYNC" / help
        / auth
token   = %s"TOKEN"
route   = %s"messages" / %s"messages" / %s"numbers" / %s"once" / %s"nowhere"
query   = %s"last" / %s"last" / %s"fails" / %s"none"
channel = %s"news" / %s"news" / %s"secret"
stream  = %s"STREAM" DIGIT
seen    = %s"SEEN" / %s"SEEN" / %s"SEEN" / DIGIT
epoch   = %s"EPOCH" / %s"EPOCH" / ( %s"never-" DIGIT )
number  = %s"NEXT" / %s"NEXT" / %s"NEXT" / %s"NEXT" / %x31-39 / ( %x31-39 17DIGIT )
payload = text / *OCTET / number
arguments = json-object / json-array / %s"[" DIGIT "]" / "{" DQUOTE %s"n" DQUOTE ":" DIGIT "}"
"""
)
"""
The names of L{tests.fuzzing.live}; C{QUIT} is left to the end. C{NEXT}, C{SEEN}, C{EPOCH},
C{STREAM} and C{TOKEN} are replaced where a frame is said.
"""

_LOOSE: Final = DOCUMENTED.extended(
    "arguments = *OCTET\nrow = *OCTET\nroute = *( %x00-1F / %x21-FF )"
)
"""
For what is judged apart: JSON, and routes, of which any that is not configured is unknown.
"""

_TAGGED: Final = re.compile(rb"(%s)(?: |\Z)" % _LOOSE.compiled("tag").pattern)
_COMMAND: Final = _LOOSE.compiled("command")
_ANSWER: Final = _LOOSE.compiled("answer")
_PUSH: Final = _LOOSE.compiled("push")
_GOODBYE: Final = _LOOSE.compiled("goodbye")
_ROWS: Final = re.compile(b"(?:%s )?\\*(\\d+)" % _LOOSE.compiled("tag").pattern)
_QUIT: Final = re.compile(b"(?:%s )?(?i:QUIT)" % _LOOSE.compiled("tag").pattern)
_AUTH: Final = re.compile(b"((?:%s )?)(?i:AUTH) (.+)" % _LOOSE.compiled("tag").pattern, re.DOTALL)
_NUMBERED: Final = re.compile(b"#(%s) " % _LOOSE.compiled("number").pattern)

_LINE: Final = _LOOSE.compiled("line").pattern
_STATE: Final = b"(?: %s)?" % _LOOSE.compiled("sqlstate").pattern
_STORED: Final = _LOOSE.compiled("stored").pattern
_TRY: Final = _LOOSE.compiled("later").pattern
_TALLY: Final = _LOOSE.compiled("tally").pattern
_OPENED: Final = rb"\+OK seq=%b epoch=" + _LOOSE.compiled("epoch").pattern
_SEQ: Final = re.compile(rb".*\+OK seq=(\d+) epoch=(\S+)", re.DOTALL)
_HELLO: Final = re.compile(rb"(?i:HELLO) (\S+)")
_PUT_OFF: Final = rb"-TRY GAP retry=\d+(?: seq=\d+)?(?: taken=true)? :" + _LINE


_compiled = lru_cache(maxsize=256)(re.compile)


def _refused(*codes: bytes) -> bytes:
    return b"-REJ (?:%s)%s :%s" % (b"|".join(codes), _STATE, _LINE)


_NO_COMMAND: Final = _refused(b"FORMAT", b"DATA", b"ROUTE", b"QUERY", b"DENIED")

_DATA: Final = (b"DATA", b"CONSTRAINT")

ROUTES: Final = ("messages", "numbers", "once")

TOKEN: Final = b"fuzzer-1.secret"
"""That every gateway here knows; it ends the conversation to say another."""

SHARED: Final = b"shared-"
"""Streams whose names begin with this are opened by several peers."""

MISSED: Final = (b"QUIT now", b"QUIT ", b"AUTH x", b"@ PING", b"@" + b"x" * 64 + b" PING", b"")
"""Frames that are nearly right, and of which spoiling would seldom make one."""


def spoiled(frame: bytes, how: int, where: int, byte: int) -> bytes:
    """
    A frame that is almost the same.

    @param how: any number; likewise C{where} and C{byte}.
    """
    words = frame.split(b" ")
    word = where % len(words)
    place = where % (len(frame) + 1)
    one = bytes([byte % 256])
    match how % 12:
        case 0:
            return b" ".join(words[:word] + words[word + 1 :])
        case 1:
            return b" ".join([*words[: word + 1], *words[word:]])
        case 2:
            return frame[:place]
        case 3:
            return frame[:place] + one + frame[place:]
        case 4:
            return frame[:place] + one + frame[place + 1 :]
        case 5:
            return frame[:place] + bytes([byte % 32]) + frame[place:]
        case 6:
            return frame + b" "
        case 7:
            return b" " + frame
        case 8:
            return re.sub(
                rb"#\w+", [b"#0", b"#-1", b"#1x", b"#", b"#" + b"9" * 30][byte % 5], frame
            )
        case 9:
            return b"@" + one * (where % 70) + b" " + frame
        case 10:
            return b" ".join([*words[:word], words[word].swapcase(), *words[word + 1 :]])
    return MISSED[byte % len(MISSED)]


def fitting(frame: bytes, framing: str, max_frame: int) -> bytes:
    """
    The frame, as far as the framing can say it.
    """
    if framing == "line":
        # A CR at its end would be taken for a part of the line's.
        return frame.replace(b"\n", b"\v").rstrip(b"\r")
    frame = frame[:max_frame]
    if framing == "nul":
        return frame.replace(b"\0", b"\v")
    return frame or b"?" if framing == "octet-counted" else frame


@dataclass(frozen=True, slots=True)
class Expected:
    """
    What one frame must be answered.

    @ivar tag: that the answer begins with.
    @ivar answer: all that follows.
    @ivar silent: whether there may be no answer: the peer asked for quiet.
    @ivar is_put: whether C{SYNC} counts it where it is kept.
    """

    frame: bytes
    tag: bytes
    answer: re.Pattern[bytes]
    silent: bool = False
    is_put: bool = False

    def fits(self, answer: bytes) -> bool:
        """Whether this may be the answer."""
        if not self.tag:
            return self.answer.fullmatch(answer) is not None
        head = self.tag + b" "
        return answer.startswith(head) and self.answer.fullmatch(answer, len(head)) is not None


class Judge:
    """
    Says what a peer must be answered, in view of what it said before.
    """

    def __init__(
        self,
        max_frame: int,
        takes: Callable[[bytes, bytes], bool | None],
        streams: bytes,
        channel: bytes = b"news",
    ) -> None:
        """
        @param takes: whether a route's table takes a message; C{None} where that is not known.
        @param streams: a digit behind this makes the name of a stream that nobody has used.
        @param channel: that may be listened to; C{b""} for none.
        """
        self._max_frame = max_frame
        self._takes = takes
        self._channel = channel
        self._quiet = False
        # Whether the peer has a stream; None: it depends on what Unicode says of a name, or on
        # what others did with it.
        self._has_stream: bool | None = False
        # Whether the last HELLO was put off, and with it what has a number.
        self._put_off = False
        # Epochs of its streams, as far as they were heard; all before them are over.
        self._epochs: dict[bytes, bytes] = {}
        # What is told to each number of its streams that is sent again, from the first on.
        self._streams: dict[bytes, list[bytes]] = {}
        self._told: list[bytes] | None = None
        self._own = re.compile(re.escape(streams) + rb"\d")

    def heard(self, frame: bytes, answer: bytes) -> None:
        """
        An answer came that may tell a stream's epoch; what was said since may have ended it.
        """
        hello, opened = _HELLO.search(frame), _SEQ.fullmatch(answer)
        if hello is not None and opened is not None and hello[1] in self._streams:
            self._epochs[hello[1]] = opened[2]

    def expect(self, frame: bytes) -> Expected:
        """
        @param frame: that is said now.
        """
        if len(frame) > self._max_frame:
            return Expected(frame, b"", _compiled(_refused(b"TOOBIG")))
        tag, command = b"", frame
        if frame.startswith(b"@"):
            found = _TAGGED.match(frame)
            if found is None:
                return Expected(frame, b"", _compiled(_refused(b"FORMAT")))
            tag, command = found[1], frame[found.end() :]
        answer, is_put = self._answer(command)
        return Expected(frame, tag, _compiled(answer), self._quiet and is_put, is_put)

    def _answer(self, command: bytes) -> tuple[bytes, bool]:
        """
        @return: what must be said to it, and whether it may be stored.
        """
        verb, _, rest = command.partition(b" ")
        if not _COMMAND.fullmatch(command):
            # HELP is for people, and may be more patient than the grammar.
            help_ = rb"\+OK %s|" % _LINE if verb.upper() == b"HELP" else b""
            return help_ + _NO_COMMAND, False
        match verb.upper():
            case b"PUT":
                return self._put(*rest.split(b" ", 1))
            case b"CALL":
                return _called(*rest.split(b" ", 1)), False
            case b"LISTEN" | b"UNLISTEN":
                if rest == self._channel:
                    return rb"\+OK", False
                return _refused(b"DENIED", b"FORMAT"), False
            case b"HELLO":
                return self._hello(rest), False
            case b"QUIET":
                self._quiet = True
                return rb"\+OK", False
            case b"SYNC":
                return rb"\+OK " + _TALLY, False
            case b"AUTH":
                # Who has opened something stays who he is.
                return rb"\+OK|" + _refused(b"DENIED"), False
            case b"PING":
                return _echoed(rest), False
            case b"RELAY":
                return rb"\+OK", False
            case b"HELP":
                asked, _, route = rest.partition(b" ")
                if asked and route and route.decode("latin-1") not in ROUTES:
                    return _refused(b"ROUTE"), False
                return rb"\+OK " + _LINE, False
        assert verb.upper() == b"QUIT"
        return rb"\+OK", False

    def _put(self, route: bytes, payload: bytes) -> tuple[bytes, bool]:
        is_known = route.decode("latin-1") in ROUTES
        numbered = _NUMBERED.match(payload)
        if self._has_stream is None:
            # Where it has one, a number that is known is a duplicate, whatever its route.
            told = b"|".join([_STORED, _TRY, _refused(*_DATA, b"FORMAT", b"ROUTE")])
            return told, is_known or numbered is not None
        if numbered is not None and self._put_off:
            return _PUT_OFF, False
        if (numbered is not None) != self._has_stream:
            return _refused(b"FORMAT") if is_known else _refused(b"ROUTE", b"FORMAT"), False
        if numbered is None:
            return self._alone(route, payload)[0], is_known
        if self._told is None:
            return b"|".join([_STORED, _TRY, _refused(*_DATA, b"ROUTE")]), True
        return self._in_stream(int(numbered[1]), *self._alone(route, payload[numbered.end() :]))

    def _in_stream(self, number: int, answer: bytes, again: bytes) -> tuple[bytes, bool]:
        """
        @param again: what is told when it is sent again.
        """
        told = self._told
        assert told is not None
        if number > len(told) + 1:
            return rb"-TRY GAP seq=%d :%s" % (len(told), _LINE), True
        if number == len(told) + 1:
            told.append(again)
            return answer, True
        return told[number - 1], True

    def _alone(self, route: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """
        @return: what a message is told, and when it is sent again in a stream.
        """
        if route.decode("latin-1") not in ROUTES:
            return _refused(b"ROUTE"), _refused(b"ROUTE")
        refused = _refused(*_DATA)
        stored = rb"\+OK|\+DUP" if route == b"once" else rb"\+OK"
        match self._takes(route, payload):
            case True:
                return stored, rb"\+DUP"
            case False:
                return refused, refused
        return stored + b"|" + refused, rb"\+DUP|" + refused

    def _hello(self, rest: bytes) -> bytes:
        name, *known = rest.split(b" ")
        if len(name) > 128:
            return _refused(b"FORMAT")
        self._told = None
        self._put_off = False
        if self._own.fullmatch(name):
            told = self._told = self._streams.setdefault(name, [])
            if known and not self._goes_on(name, len(told), *known):
                self._told, self._has_stream, self._put_off = None, False, True
                return _PUT_OFF
            if not known:
                # Another one begins, which is not heard yet.
                self._epochs.pop(name, None)
            self._has_stream = True
            return _OPENED % (b"%d" % len(told))
        opened = _OPENED % rb"\d+"
        if known:
            opened += b"|" + _PUT_OFF
        if name.decode().isprintable():
            self._has_stream = None if known else True
            return opened
        self._has_stream = None
        return opened + b"|" + _refused(b"FORMAT")

    def _goes_on(self, name: bytes, last: int, seen: bytes, epoch: bytes = b"") -> bool:
        """
        Whether a stream of its own has come as far as the peer says, in the epoch it says.
        """
        word = epoch.removeprefix(b"epoch=")
        return int(seen[5:]) <= last and (not word or word == self._epochs.get(name))


def _called(name: bytes, arguments: bytes = b"") -> bytes:
    if name in (b"last", b"fails"):
        return b"|".join([rb"\*\d+", _refused(b"QUERY", b"TOOBIG"), _TRY])
    return _refused(b"QUERY")


def _echoed(text: bytes) -> bytes:
    shown = text.decode()
    if not shown:
        return rb"\+OK"
    if shown.isprintable() and len(shown) <= 200:
        return rb"\+OK " + re.escape(text)
    return rb"\+OK " + _LINE


class Speaker:
    """
    Makes up what one peer says.

    @ivar shares: whether it may have opened a stream that others open too.
    """

    def __init__(self, chance: Random, name: str, framing: str, max_frame: int) -> None:
        """
        @param name: its streams begin with this.
        """
        self._chance = chance
        self.shares = False
        self._name = name.encode()
        self._framing = framing
        self._max_frame = max_frame
        self._next: dict[bytes, int] = {}
        self._epochs: dict[bytes, bytes] = {}
        self._stream = b""

    def frame(self) -> bytes:
        """
        What is said next.
        """
        chance = self._chance
        throw = chance.random()
        frame = SPOKEN.sample("frame", chance)
        if throw < 0.25:
            frame = spoiled(frame, *(chance.randrange(1 << 16) for _ in range(3)))
        elif throw < 0.27:
            frame = chance.randbytes(chance.randrange(40))
        elif throw < 0.28 and self._framing == "line":
            frame += b"x" * self._max_frame
        return self.said(frame)

    def said(self, frame: bytes) -> bytes:
        """
        The frame with the number and the stream it is said with.
        """
        frame = frame.replace(b"STREAM", self._name).replace(b"TOKEN", TOKEN)
        hello = _HELLO.search(frame)
        if hello is not None:
            self._stream = hello[1]
            seen = self._next.get(self._stream, 1) - 1
            frame = frame.replace(b"=SEEN", b"=%d" % seen)
            frame = frame.replace(b"=EPOCH", b"=" + self._epochs.get(self._stream, b"never"))
            # Spoiled names may be anybody's.
            own = hello[1][:-1] == self._name and hello[1][-1:].isdigit()
            self.shares = self.shares or not own or self._name == SHARED
        if _QUIT.fullmatch(frame):
            frame += b"E"  # that is for the end
        number = self._next.get(self._stream, 1)
        if b"#NEXT " in frame and self._stream:
            self._next[self._stream] = number + 1
        frame = fitting(frame.replace(b"#NEXT ", b"#%d " % number), self._framing, self._max_frame)
        auth = _AUTH.fullmatch(frame)
        # That another token is the end is for other tests.
        return frame if auth is None or auth[2] == TOKEN else _AUTH.sub(rb"\1HTUA \2", frame)

    def heard(self, frame: bytes, answer: bytes) -> None:
        """
        An answer came, which may tell how far a stream is, and its epoch.
        """
        found, hello = _SEQ.fullmatch(answer), _HELLO.search(frame)
        if found is not None and hello is not None:
            self._next[hello[1]] = int(found[1]) + 1
            self._epochs[hello[1]] = found[2]


class Hearing:
    """
    Takes in what a gateway says on one connection.

    @ivar answers: what was said, rows and pushes left out.
    @ivar goodbye: the last word, if it was said.
    @ivar pushes: how many there were.
    """

    def __init__(self, framing: str) -> None:
        self._framing = FRAMINGS[framing](1 << 24)
        self._rows = 0
        self.answers: list[bytes] = []
        self.goodbye = b""
        self.pushes = 0

    def take(self, data: bytes) -> None:
        """
        @raise AssertionError: for what the grammar does not have.
        """
        for said in self._framing.receive(data):
            assert not self.goodbye, f"{said!r} after {self.goodbye!r}"
            if self._rows:
                assert isinstance(json.loads(said), dict), said
                self._rows -= 1
            elif _PUSH.fullmatch(said):
                self.pushes += 1
            elif _GOODBYE.fullmatch(said):
                self.goodbye = said
            else:
                assert _ANSWER.fullmatch(said), said
                rows = _ROWS.fullmatch(said)
                if rows is not None:
                    self._rows = int(rows[1])
                self.answers.append(said)

    @property
    def whole(self) -> bool:
        """Whether nothing is begun and not finished."""
        return not self._rows and not self._framing.unfinished


Pair = tuple[Expected, bytes | None]
"""A frame and its answer; C{None}: it had none."""


def paired(expected: Sequence[Expected], answers: Sequence[bytes]) -> list[Pair]:
    """
    Which answer is whose.

    @raise AssertionError: they are not the answers to these frames in this order.
    """
    # The places in `expected` that so many answers may have led to, and from where.
    reached: list[dict[int, int]] = [{0: 0}]
    for answer in answers:
        places: dict[int, int] = {}
        for place in _with_silent(reached[-1], expected):
            if place < len(expected) and expected[place].fits(answer):
                places.setdefault(place + 1, place)
        if not places:
            last = max(_with_silent(reached[-1], expected))
            frames = [one.frame for one in expected[max(0, last - 2) : last + 2]]
            raise AssertionError(f"{answer!r} cannot be the answer to the last but one of {frames}")
        reached.append(places)
    ends = [p for p in reached[-1] if all(one.silent for one in expected[p:])]
    if not ends:
        missing = expected[max(reached[-1])].frame
        raise AssertionError(f"no answer to {missing!r}, only {answers[-3:]}")
    given: dict[int, bytes] = {}
    place = ends[0]
    for count in range(len(answers), 0, -1):
        at = reached[count][place]
        given[at] = answers[count - 1]
        place = _before(reached[count - 1], at, expected)
    return [(one, given.get(number)) for number, one in enumerate(expected)]


def _with_silent(places: dict[int, int], expected: Sequence[Expected]) -> Iterator[int]:
    """The places, and those behind them that can be come to without an answer."""
    seen = set()
    for place in sorted(places):
        while place not in seen:
            seen.add(place)
            yield place
            if place < len(expected) and expected[place].silent:
                place += 1


def _before(places: dict[int, int], at: int, expected: Sequence[Expected]) -> int:
    """The last of the places from which nothing but silence leads to another."""
    return max(p for p in places if p <= at and all(one.silent for one in expected[p:at]))


class Tally:
    """
    Counts as C{SYNC} does, and holds its answers against that.
    """

    def __init__(self) -> None:
        self._kept = self._refused = self._again = 0

    def count(self, pairs: Sequence[Pair]) -> None:
        """
        @raise AssertionError: C{SYNC} said something else.
        """
        for expected, answer in pairs:
            words = (answer or b"+OK").split(b" ")
            word = words[1] if words[0].startswith(b"@") else words[0]
            if word == b"-REJ":
                self._refused += 1
            elif word == b"-TRY":
                self._again += 1
            elif expected.is_put:
                self._kept += 1
            elif words[-1].startswith(b"try=") and expected.frame.upper().endswith(b"SYNC"):
                told = [int(one.rpartition(b"=")[2]) for one in words[-3:]]
                assert told == [self._kept, self._refused, self._again], words
                self._kept = self._refused = self._again = 0
