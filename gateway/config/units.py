"""
Parse units of durations and sizes in configurations and commands: C{"5m"}, C{"64kB"}.

Durations have PostgreSQL's units, with C{m} for minutes as usual elsewhere, and weeks. Sizes have
its binary multiples: C{kB} is 1024 bytes, in any spelling.

@see: PostgreSQL documentation, section 20.1.1, "Parameter Names and Values"
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, NamedTuple

from msgspec import Meta

MAX_TOML_INTEGER: Final = 2**63 - 1
"""Largest integer of TOML."""

_NUMBER_AND_UNIT: Final = re.compile(
    # So many digits are enough for the largest size in bytes, and cost nothing to convert.
    r"(?P<number>[0-9]{1,19}(\.[0-9]{1,9})?)[ ]*(?P<unit>[^\W\d_]*)",
    re.ASCII,
)


class Quantity(NamedTuple):
    """
    Kind of values with a unit: durations or sizes.

    @ivar plain: base unit, which a number without a unit counts.
    @ivar units: unit -> its size in C{plain}.
    @ivar shown: units and examples, for messages.
    @ivar whole: whether fractions of C{plain} are refused.
    """

    plain: str
    units: dict[str, Decimal]
    shown: str
    whole: bool

    def from_text(self, text: str) -> float | int:
        """
        Parse a number with a unit.

        @return: the value in C{plain}.
        @raise ValueError: it cannot be parsed; the text continues a line that begins with the key.
        """
        match = _NUMBER_AND_UNIT.fullmatch(text.strip(" "))
        if match is None:
            raise ValueError(f"{text!r} is no {self}: {self.words}")
        number, unit = match["number"], match["unit"]
        if not unit:
            default = next(iter(self.units))
            raise ValueError(f"{text!r} has no unit: write {number}, or {number + default!r}")
        if unit not in self.units:
            # "16m" of a size, "5S" of a duration.
            near = next((known for known in self.units if known.lower() == unit.lower()), None)
            hint = f"; did you mean {number + near!r}?" if near else f": {self.words}"
            raise ValueError(f"{text!r} has an unknown unit {unit!r}{hint}")
        value = Decimal(number) * self.units[unit]
        if self.whole and value != value.to_integral_value():
            raise ValueError(f"{text!r} is no whole number of {self.plain}")
        if value > MAX_TOML_INTEGER:
            raise ValueError(f"{text!r} is more than any {self} can be")
        return int(value) if self.whole else float(value)

    @property
    def words(self) -> str:
        """Hint for messages: how such a value is written."""
        return f"write a number of {self.plain}, or {self.shown}"

    def __str__(self) -> str:
        return "size" if self.whole else "duration"


DURATION: Final = Quantity(
    "seconds",
    {
        "s": Decimal(1),
        "ms": Decimal("0.001"),
        "us": Decimal("0.000001"),
        "m": Decimal(60),
        "min": Decimal(60),
        "h": Decimal(3600),
        "d": Decimal(86400),
        "w": Decimal(604800),
    },
    '"500ms", "5s", "5m", "1h", "1d"',
    whole=False,
)

SIZE: Final = Quantity(
    "bytes",
    {
        "B": Decimal(1),
        **{
            f"{prefix}{rest}": Decimal(1024) ** power
            for power, prefixes in enumerate(("kK", "M", "G", "T"), 1)
            for prefix in prefixes
            for rest in ("", "B", "iB")
        },
    },
    '"64kB", "16MB", "1GB", "1TB" (1 kB = 1024 bytes)',
    whole=True,
)

UNIT: Final = "unit"
"""Under which the type of a key says of which kind its values are, in C{msgspec.Meta.extra}."""

IN_SECONDS: Final = {UNIT: DURATION}
IN_BYTES: Final = {UNIT: SIZE}

Seconds = Annotated[float, Meta(gt=0, extra=IN_SECONDS)]
Bytes = Annotated[int, Meta(ge=1, extra=IN_BYTES)]
Count = Annotated[int, Meta(ge=1)]
