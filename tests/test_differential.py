"""
Values beside PostgreSQL's own, see L{tests.differential}.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.differential import FORMS, MADE, PICKED, Comparison, Figures, intended, made
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
        compared, differences = comparison.compare(type_, literals)
        figures.values += compared
        figures.differences += differences
    assert figures.values > 50_000
    assert figures.unexplained(intended(), comparison.bases) == []


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
