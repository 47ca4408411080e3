"""
Kinds of numbers, truth values, texts, UUIDs, addresses and bytes.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from contextlib import suppress
from typing import Final

from gateway.columns.kind import BLANKS, Kind, SqlType, column_pattern, misfit
from gateway.columns.literal import quoted_element

_INTEGER: Final = re.compile(r"(?P<sign>[+-]?)(?=[0-9])0*+(?P<digits>[0-9]*+)")
_NUMERIC_LITERAL: Final = re.compile(
    r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE](?P<exponent>[+-]?[0-9]++))?"
)
_NEWER: Final = re.compile(r"[+-]?(?=[0-9.]*+_)[0-9._eE+-]*+|[+-]?0[xXoObB].*", re.DOTALL)
"""Numbers as PostgreSQL 16 and later take them, and floats as the C library does."""

_SPECIAL: Final = {
    "nan": "NaN",
    **dict.fromkeys(("inf", "+inf", "infinity", "+infinity"), "Infinity"),
    **dict.fromkeys(("-inf", "-infinity"), "-Infinity"),
}

_NOT_A_NUMBER: Final = re.compile(r"[+-]?nan.*", re.IGNORECASE | re.DOTALL)
"""Ways to write it that the C library of the server may take."""

_MOST_DIGITS: Final = 40
_MOST_EXPONENT_DIGITS: Final = 6

_MOST_SINGLE: Final = 3.4028234663852886e38

_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}
_NAMES: Final = {
    **{"int2": "smallint", "int4": "integer", "int8": "bigint"},
    **{"float4": "real", "float8": "double precision"},
}


class Integer(Kind):
    """
    Kind of C{smallint}, C{integer}, C{bigint}.
    """

    cast = False

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        bits = _BITS[sql_type.base]
        self.parameter = f"{sql_type.base}[]"
        self._least, self._most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        # So many digits certainly fit.
        digits = len(str(self._most)) - 1
        self.json = self.text = column_pattern(f"-?[0-9]{{1,{digits}}}+")

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        match = _INTEGER.fullmatch(value)
        if not match:
            if _NEWER.fullmatch(value):
                return super().element(value)
            raise misfit(value, f"is not {_an(_NAMES[self.sql_type.base])}")
        fits = len(match["digits"]) < _MOST_DIGITS
        number = int(match["sign"] + (match["digits"] or "0")) if fits else 0
        if not fits or not self._least <= number <= self._most:
            raise misfit(value, f"is out of range for {_NAMES[self.sql_type.base]}")
        return str(number)


class Float(Kind):
    """
    Kind of C{real}, C{double precision}.
    """

    cast = False

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        self.parameter = f"{sql_type.base}[]"
        # Few enough digits and small enough exponents for the range of either.
        plain = r"-?[0-9]{1,18}+(?:\.[0-9]{1,16}+)?+(?:[eE][+-]?[01]?[0-9])?+"
        self.json = self.text = column_pattern(plain)
        self._single = sql_type.base == "float4"

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        special = _SPECIAL.get(value.lower())
        if special is not None:
            return special
        if not _NUMERIC_LITERAL.fullmatch(value):
            if _NEWER.fullmatch(value) or _NOT_A_NUMBER.fullmatch(value):
                return super().element(value)
            raise misfit(value, "is not a number")
        number = float(value)
        if self._single:
            with suppress(OverflowError):
                number = struct.unpack("f", struct.pack("f", number))[0]
        # PostgreSQL refuses as well what is so small that nothing would be left of it.
        lost = not number and re.search("[1-9]", re.split("[eE]", value)[0])
        if lost or math.isinf(number) or (self._single and abs(number) > _MOST_SINGLE):
            raise misfit(value, f"is out of range for {_NAMES[self.sql_type.base]}")
        return value


class Numeric(Kind):
    """
    Kind of C{numeric}: digits are kept; more decimals than the column has are rounded.
    """

    parameter = "numeric[]"
    cast = False
    json = text = column_pattern(r"-?[0-9]{1,30}+(?:\.[0-9]{1,30}+)?+(?:[eE][+-]?[0-9])?+")

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        special = _SPECIAL.get(value.lower())
        if special is not None:
            return special
        match = _NUMERIC_LITERAL.fullmatch(value)
        if not match:
            if _NEWER.fullmatch(value):
                return super().element(value)
            raise misfit(value, "is not a number")
        # Far beyond what numeric holds (PostgreSQL documentation, section 8.1.2: 131,072
        # digits before the point and 16,383 after it); near its limits the server judges.
        exponent = match["exponent"] or "0"
        if len(exponent.lstrip("+-0")) > _MOST_EXPONENT_DIGITS:
            raise misfit(value, "is out of range for numeric")
        return value


_BOOLEAN_WORDS: Final = {"true": "true", "yes": "true", "false": "false", "no": "false"}
_BOOLEANS: Final = {
    **{
        word[:end]: truth
        for word, truth in _BOOLEAN_WORDS.items()
        for end in range(1, len(word) + 1)
    },
    **{"on": "true", "1": "true", "of": "false", "off": "false", "0": "false"},
}


class Boolean(Kind):
    """
    Kind of C{boolean}, in the words that PostgreSQL takes, and their beginnings.
    """

    parameter = "bool[]"
    cast = False
    json = text = column_pattern("true|false")

    def element(self, value: str) -> str:
        match = _BOOLEANS.get(value.strip(BLANKS).lower())
        if match is None:
            raise misfit(value, "is not a truth value")
        return match


class Text(Kind):
    """
    Kind of C{text}, C{varchar(n)}, C{char(n)}.
    """

    cast = False
    json = column_pattern(r'"[^"\\]*+"')

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        if sql_type.length:
            self.json = column_pattern(rf'"[^"\\]{{0,{sql_type.length}}}+"')

    def element(self, value: str) -> str:
        length = self.sql_type.length
        # PostgreSQL cuts off blanks that are too many.
        if length and value[length:].strip(" "):
            raise misfit(value, f"is longer than {length} characters")
        return super().element(value)

    def composite(self, token: str) -> str:
        return self.element(token)


_HEXADECIMAL: Final = re.compile(r"(?:[0-9a-fA-F]{2}|[ \n\t\r])*+")

_UUID: Final = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_DIGITS: Final = "(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}"
_ANY_UUID: Final = re.compile(rf"{_DIGITS}|\{{{_DIGITS}\}}")


class Uuid(Kind):
    """
    Kind of C{uuid}: hyphens after any four digits, and braces around it, or none.
    """

    parameter = "uuid[]"
    cast = False
    json = column_pattern(f'"{_UUID}"')
    text = column_pattern(_UUID)

    def element(self, value: str) -> str:
        if not _ANY_UUID.fullmatch(value):
            raise misfit(value, "is not a UUID")
        return value.strip("{}")


_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

_ADDRESS: Final = re.compile(r"[0-9a-fA-FxX.:/]+")


class Inet(Kind):
    """
    Kind of C{inet} and C{cidr}, IPv4 and IPv6.
    """

    cast = False

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        self.parameter = f"{sql_type.base}[]"
        address = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
        self.json = column_pattern(f'"{address}"')
        self.text = column_pattern(address)

    def element(self, value: str) -> str:
        # There are short forms, such as 10.1/16; of these the server knows.
        if not _ADDRESS.fullmatch(value):
            what = "a network" if self.sql_type.base == "cidr" else "an IP address"
            raise misfit(value, f"is not {what}")
        return super().element(value)


class Bytea(Kind):
    r"""
    Kind of C{bytea}: C{\x} and hexadecimal as PostgreSQL writes it, all else is Base64 (RFC 4648).
    """

    parameter = "bytea[]"
    cast = False

    def element(self, value: str) -> str:
        try:
            if value.startswith("\\x"):
                return octets(bytes.fromhex(_hexadecimal(value[2:])))
            return octets(base64.b64decode(value, validate=True))
        except (ValueError, binascii.Error):
            raise misfit(value, "is neither \\x and hexadecimal nor Base64") from None


def _hexadecimal(digits: str) -> str:
    """
    Return the digits; blanks may stand between.

    @raise ValueError: another character is among them.
    """
    if not _HEXADECIMAL.fullmatch(digits):
        raise ValueError
    return digits


def octets(data: bytes) -> str:
    """Return any bytes as an element of a C{bytea[]} literal."""
    return quoted_element("\\x" + data.hex())


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
