"""
Numbers, truth values, texts, and what is written like a name: UUIDs, addresses, bytes.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
import struct
from contextlib import suppress
from typing import Final

from gateway.columns.kind import Kind, SqlType, column_pattern, misfit
from gateway.columns.literal import quoted

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE](?P<exponent>[+-]?[0-9]{1,9}))?"
)
_SPECIAL: Final = {
    "nan": "NaN",
    **dict.fromkeys(("inf", "+inf", "infinity", "+infinity"), "Infinity"),
    **dict.fromkeys(("-inf", "-infinity"), "-Infinity"),
}

_MOST_SINGLE: Final = 3.4028234663852886e38

_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}
_NAMES: Final = {
    **{"int2": "smallint", "int4": "integer", "int8": "bigint"},
    **{"float4": "real", "float8": "double precision"},
}


class Integer(Kind):
    """
    C{smallint}, C{integer}, C{bigint}.
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
        value = value.strip()
        if not _INTEGER.fullmatch(value):
            raise misfit(value, f"is not {_an(_NAMES[self.sql_type.base])}")
        number = int(value)
        if not self._least <= number <= self._most:
            raise misfit(value, f"is out of range for {_NAMES[self.sql_type.base]}")
        return str(number)


class Float(Kind):
    """
    C{real}, C{double precision}.
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
        value = value.strip()
        special = _SPECIAL.get(value.lower())
        if special is not None:
            return special
        if not _NUMBER.fullmatch(value):
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
    C{numeric}: digits are kept as they come; more decimals than the column has are rounded.
    """

    parameter = "numeric[]"
    cast = False
    json = text = column_pattern(r"-?[0-9]{1,30}+(?:\.[0-9]{1,30}+)?+(?:[eE][+-]?[0-9])?+")

    def element(self, value: str) -> str:
        value = value.strip()
        special = _SPECIAL.get(value.lower())
        if special is not None:
            return special
        found = _NUMBER.fullmatch(value)
        if not found:
            raise misfit(value, "is not a number")
        # PostgreSQL documentation, section 8.1.2: 131,072 digits before the point and
        # 16,383 after it.
        exponent = int(found["exponent"] or 0)
        if not -16383 <= exponent <= 131071 or len(value) > 140_000:
            raise misfit(value, "is out of range for numeric")
        return value


_TRUTH: Final = {
    **dict.fromkeys(("t", "true", "y", "yes", "on", "1"), "true"),
    **dict.fromkeys(("f", "false", "n", "no", "off", "0"), "false"),
}


class Boolean(Kind):
    """
    C{boolean}, in the words that PostgreSQL takes.
    """

    parameter = "bool[]"
    cast = False
    json = text = column_pattern("true|false")

    def element(self, value: str) -> str:
        found = _TRUTH.get(value.strip().lower())
        if found is None:
            raise misfit(value, "is not a truth value")
        return found


class Text(Kind):
    """
    C{text}, C{varchar(n)}, C{char(n)}, and C{xml} or the like, which the server judges.
    """

    cast = False
    json = column_pattern(r'"[^"\\]*+"')

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        if sql_type.length:
            self.json = column_pattern(rf'"[^"\\]{{0,{sql_type.length}}}+"')

    def element(self, value: str) -> str:
        length = self.sql_type.length
        if length and len(value) > length:
            raise misfit(value, f"is longer than {length} characters")
        return super().element(value)

    def composite(self, token: str) -> str:
        return self.element(token)


_UUID: Final = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


class Uuid(Kind):
    """
    C{uuid}, with or without hyphens and braces.
    """

    parameter = "uuid[]"
    cast = False
    json = column_pattern(f'"{_UUID}"')
    text = column_pattern(_UUID)

    def element(self, value: str) -> str:
        bare = value.strip().removeprefix("{").removesuffix("}").replace("-", "")
        if not re.fullmatch("[0-9a-fA-F]{32}", bare):
            raise misfit(value, "is not a UUID")
        return bare


_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"


class Address(Kind):
    """
    C{inet} and C{cidr}, IPv4 and IPv6.
    """

    cast = False

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        self.parameter = f"{sql_type.base}[]"
        address = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
        self.json = column_pattern(f'"{address}"')
        self.text = column_pattern(address)

    def element(self, value: str) -> str:
        value = value.strip()
        _, slash, mask = value.partition("/")
        try:
            if "%" in value or (slash and not re.fullmatch("[0-9]{1,3}", mask)):
                raise ValueError
            if self.sql_type.base == "cidr":
                ipaddress.ip_network(value)
            else:
                ipaddress.ip_interface(value)
        except ValueError:
            what = "a network" if self.sql_type.base == "cidr" else "an IP address"
            raise misfit(value, f"is not {what}") from None
        return value


class Bytes(Kind):
    r"""
    C{bytea}: C{\x} and hexadecimal as PostgreSQL writes it, anything else is Base64 (RFC 4648).
    """

    parameter = "bytea[]"
    cast = False

    def element(self, value: str) -> str:
        try:
            if value.startswith("\\x"):
                return octets(bytes.fromhex(value[2:]))
            return octets(base64.b64decode(value, validate=True))
        except (ValueError, binascii.Error):
            raise misfit(value, "is neither \\x and hexadecimal nor Base64") from None


def octets(data: bytes) -> str:
    """
    Any bytes as an element of a C{bytea[]} literal.
    """
    return quoted("\\x" + data.hex())


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
