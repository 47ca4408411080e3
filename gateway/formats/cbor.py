"""
CBOR (RFC 8949): every message is a map; a field is a key in it, or a path a.b.c.

Strategy: the frames of a chunk are decoded by one call of cbor2, as an array in which a mark
follows each message. None of the frames holds the mark, so where every mark comes out, each
behind one value, every frame is one value and nothing more. Only a chunk that fails is decoded
frame by frame, to name the ones at fault.

A tag that changes what a value is gives that value: times (0, 1, 100, 1004), numbers of any size
(2 to 5), UUIDs (37), addresses (52, 54, 260, 261). Others add only what a value is for, and are
left out as RFC 8949 (6.1) says. References (25, 28, 29, 256) are refused: a short message could
hold a value without end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from gateway.formats.fields import Fields, nested
from gateway.formats.objects import MAX_DEPTH, ObjectReader, Unwritable, moment

_MARK: Final = b"\x4f\x0agateway's mark"
"""A byte string of 15 bytes; no part at its beginning is one at its end, so two cannot overlap."""

_MAX_EXPONENT: Final = 1_000_000
"""Largest exponent of a decimal fraction; PostgreSQL's numeric has 131,072 digits."""

_MAX_BINARY: Final = 1100
"""Largest exponent of a binary fraction: a double has 1074."""


class CborFormat:
    """
    Reader of the fields of CBOR maps.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        """
        @param fields: keys or dotted paths.
        @raise ValueError: cbor2 is not installed.
        """
        self._decoder = _Decoder()
        self._reader = ObjectReader(fields, self._decoder.undefined)

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: dict[int, str] = {}
        rows = self._decoder.decode(frames)
        if rows is None:
            rows = self._decoder.decode_each(frames, faults)
        return self._reader.read(rows, faults)


class _Decoder:
    """
    Decoder of CBOR.

    @ivar undefined: the value of that name, which JSON writes as C{null} (RFC 8949, 6.1).
    """

    def __init__(self) -> None:
        try:
            import cbor2
        except ImportError:
            raise ValueError(
                "CBOR needs cbor2, which is not installed: pip install 'txgateway[cbor]'"
            ) from None
        self._cbor2 = cbor2
        self._alone: dict[str, Any] = {
            "semantic_decoders": _TAGS,
            "tag_hook": lambda tag, immutable: tag.value,
        }
        # A frame that ends with a tag would take the mark behind it for what is tagged.
        self._together: dict[str, Any] = {
            "semantic_decoders": {**_TAGS, **dict.fromkeys(_LEFT_OUT, _unmarked)},
            "tag_hook": lambda tag, immutable: _unmarked(tag.value, immutable),
        }
        self.undefined: object = cbor2.undefined

    def decode(self, frames: Sequence[bytes]) -> list[Any] | None:
        """
        Decode all messages at once; C{None} where some may be at fault.
        """
        joined = _MARK.join([*frames, b""])
        if joined.count(_MARK) != len(frames):
            return None
        head = b"\x9a" + (2 * len(frames)).to_bytes(4)
        try:
            values = self._cbor2.loads(head + joined, max_depth=MAX_DEPTH + 1, **self._together)
        except (self._cbor2.CBORError, RecursionError, TypeError):
            return None
        if values[1::2] != [_MARK[1:]] * len(frames):
            return None
        found: list[Any] = values[::2]
        return found

    def decode_each(self, frames: Sequence[bytes], faults: dict[int, str]) -> list[Any]:
        """
        Decode messages one by one.

        @param faults: row -> why it is no CBOR; those at fault are added.
        """
        rows = []
        for number, frame in enumerate(frames):
            source = BytesIO(frame)
            decoder = self._cbor2.CBORDecoder(source, max_depth=MAX_DEPTH, **self._alone)
            try:
                rows.append(decoder.decode())
                if decoder.read(1):
                    faults[number] = "not CBOR: more follows behind its end"
            except self._cbor2.CBORDecodeEOF:
                if len(rows) == number:
                    rows.append(None)
                    faults[number] = f"not CBOR: it {'ends too early' if frame else 'is empty'}"
            except (self._cbor2.CBORError, RecursionError, TypeError) as error:
                rows.append(None)
                faults[number] = _reason(error)
        return rows


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return f"not CBOR: a text is not UTF-8: {cause.reason}"
    if isinstance(cause, Unwritable):
        return f"not a message: {cause}"
    if isinstance(error, RecursionError) or "nesting depth" in str(error):
        return "not CBOR: nested too deeply"
    return f"not CBOR: {error}"


_LEFT_OUT: Final = (35, 36, 258, 43000, 55799)
"""
Tags that are left out, though cbor2 would compile patterns, parse mails, and make sets and
complex numbers of their content; the last one says that this is CBOR.
"""

Tag = Callable[[Any, bool], Any]
"""Gives a tagged value from its content; also told whether that must be immutable."""


def _of_text(value: Any, immutable: bool) -> str:
    if not isinstance(value, str):
        raise Unwritable("a time of tag 0 or 1004 is no text")
    return value


def _since_1970(value: Any, immutable: bool) -> str:
    if isinstance(value, int):
        return moment(value)
    if not isinstance(value, (float, Decimal)) or not math.isfinite(value):
        raise Unwritable("a time of tag 1 is no number")
    # Not by arithmetic, which rounds to the precision of the thread's decimal context.
    text = format(Decimal(str(value)), "f")
    whole, _, fraction = text.removeprefix("-").partition(".")
    if not text.startswith("-"):
        return moment(int(whole), fraction)
    if not fraction.strip("0"):
        return moment(-int(whole))
    behind = 10 ** len(fraction) - int(fraction)
    return moment(-int(whole) - 1, f"{behind:0{len(fraction)}}")


def _days(value: Any, immutable: bool) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
    except (TypeError, OverflowError):
        raise Unwritable("a day of tag 100 is no day") from None


def _big(value: Any, immutable: bool) -> int:
    if not isinstance(value, bytes):
        raise Unwritable("an integer of tag 2 or 3 is not made of bytes")
    return int.from_bytes(value)


def _two(value: Any) -> tuple[int, int]:
    match value:
        case [int(exponent), int(mantissa)]:
            return exponent, mantissa
    raise Unwritable("a number of tag 4 or 5 is not made of two integers")


def _decimal(value: Any, immutable: bool) -> Decimal:
    exponent, mantissa = _two(value)
    if abs(exponent) > _MAX_EXPONENT:
        raise Unwritable(f"a number of tag 4 has the exponent {exponent}")
    return _scaled(mantissa, exponent)


def _binary(value: Any, immutable: bool) -> Decimal:
    exponent, mantissa = _two(value)
    if abs(exponent) > _MAX_BINARY:
        raise Unwritable(f"a number of tag 5 has the exponent {exponent}")
    if exponent >= 0:
        return _scaled(mantissa << exponent, 0)
    # A half is five tenths, so this is exact.
    return _scaled(mantissa * 5**-exponent, exponent)


def _scaled(mantissa: int, exponent: int) -> Decimal:
    """
    Return a number with every digit, whatever the precision of the thread's decimal context.
    """
    try:
        digits = tuple(map(int, str(abs(mantissa))))
    except ValueError:
        raise Unwritable("a number has more than 4300 digits") from None
    return Decimal((int(mantissa < 0), digits, exponent))


def _uuid(value: Any, immutable: bool) -> UUID:
    if not isinstance(value, bytes) or len(value) != 16:
        raise Unwritable("a UUID of tag 37 is not 16 bytes")
    return UUID(bytes=value)


def _reference(value: Any, immutable: bool) -> Any:
    raise Unwritable("tags 25, 28, 29 and 256, references, are not taken")


def _ratio(value: Any, immutable: bool) -> Any:
    raise Unwritable("tag 30, a ratio, is not taken: not each has an end")


def _content(value: Any, immutable: bool) -> Any:
    return value


def _unmarked(value: Any, immutable: bool) -> Any:
    if value == _MARK[1:]:
        raise Unwritable("a tag without content")
    return value


_TAGS: Final[Mapping[int, Tag]] = {
    **dict.fromkeys((0, 1004), _of_text),
    1: _since_1970,
    2: _big,
    3: lambda value, immutable: -1 - _big(value, immutable),
    4: _decimal,
    5: _binary,
    **dict.fromkeys((25, 28, 29, 256), _reference),
    30: _ratio,
    37: _uuid,
    100: _days,
    **dict.fromkeys(_LEFT_OUT, _content),
}
"""Tags that cbor2 must not read by itself, or reads with a loss."""


def sample(fields: Mapping[str, object]) -> bytes:
    """
    Write a message that has these fields.

    @raise ImportError: cbor2 is not installed.
    """
    import cbor2

    return cbor2.dumps(nested(fields.items()))
