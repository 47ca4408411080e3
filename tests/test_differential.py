"""
Values beside PostgreSQL's own, see L{tests.differential}.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal

import pytest

from tests.differential import (
    FORMS,
    MADE,
    MORE,
    PICKED,
    Comparison,
    Figures,
    intended,
    made,
    native,
)
from tests.support import TemporaryServer


@pytest.fixture(scope="module")
def comparison(server: TemporaryServer) -> Iterator[Comparison]:
    with server.create_database() as database, closing(Comparison(database.dsn)) as comparison:
        yield comparison


def test_what_is_stored_is_what_the_server_stores(comparison: Comparison) -> None:
    """Of every type, in every format, but for the table in docs/routes.md."""
    figures = Figures()
    for number, type_ in enumerate(comparison.types(arrays=False)):
        picked = PICKED if type_ in MADE else PICKED[number % 2 :: 2]
        literals = [*picked, *made(number, 20)]
        # The two with types of their own by turns: both are written as the same tokens.
        compared, differences = comparison.compare(
            type_, literals, [*FORMS[:4], FORMS[4 + number % 2]]
        )
        figures.values += compared
        figures.differences += differences
    assert figures.values > 50_000
    assert figures.unexplained(intended(), comparison.bases) == []


def test_literals_become_values_of_their_own() -> None:
    """In formats that have types, what is compared is not only text."""
    assert [native(text) for text in ("7", "1.5", "nan", "\\x00ff", "+7", "007", "10.0.0.1")] == [
        *(7, 1.5, "nan", b"\0\xff", "+7", "007", "10.0.0.1")
    ]
    assert native("2" * 30) == "2" * 30
    assert native("2" * 30, MORE) == int("2" * 30)
    assert native("1.005000", MORE) == Decimal("1.005000")


def test_each_intended_difference(comparison: Comparison) -> None:
    """A row of the table says of its value what the server and the gateway really do."""
    rows = intended()
    assert len(rows) > 5
    for row in rows:
        for name in row.types:
            told = comparison.one(name, row.form or FORMS[1], row.value)
            for outcome, expected in zip(told, (row.wanted, row.found), strict=True):
                if expected == "takes":
                    assert outcome.value is not None, (name, row)
                else:
                    assert outcome.value == expected, (name, row)
            assert told[0].value != told[1].value, (name, row)
