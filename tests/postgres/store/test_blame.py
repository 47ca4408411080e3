"""
Who is at fault: a row that fails while others pass, or a route that takes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Final

import psycopg2
import pytest
import pytest_twisted

from gateway.model.batch import Fence
from gateway.model.errors import (
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    StoreError,
    TransientError,
)
from tests.in_memory import said
from tests.postgres.store.test_store import MESSAGES, PostgresAdapter, batch, new_lane, postgres
from tests.sql.test_block import OWN, kv
from tests.sql.test_block import batch as kv_batch
from tests.support import Database

CODES: Final = (
    *("09000", "0A000", "0Z002", "21000", "22003", "22P02", "23502", "23505", "23514"),
    *("24000", "25006", "25P02", "26000", "27000", "28000", "2B000", "2D000", "2F002", "34000"),
    *("38001", "39001", "3B001", "3D000", "3F000", "42501", "42703", "42P01", "42P05", "44000"),
    *("54000", "55000", "57000", "57P05", "58030", "72000", "F0000"),
    *("HV000", "P0001", "P0004", "XX000", "XX001", "ZZ123", "6X001"),
)
"""
An SQLSTATE of every class that a row can raise, and those that mean more when they are ours; but
for those of L{PASSING}.
"""

PASSING: Final = (
    *("40001", "40P01", "53100", "53200", "53300", "55006", "55P03"),
    *("08001", "08006", "57P01", "57P02", "57P03"),
)
"""Those that mostly pass by themselves."""

SOME: Final = (
    *("42501", "42P01", "0A000", "3F000", "XX000", "25006", "57P01", "08006", "23514", "22P02"),
    *("P0001", "HV000", "54000", "26000", "58030", "40001", "53100", "55P03"),
)
"""Some of both."""

KINDS: Final = {
    "plain": kv(),
    "ignore": kv("ignore"),
    "update": kv("update"),
    "returning": kv(returning=("v",)),
    "own": kv(sql=OWN),
    "own returning": kv(sql=f"{OWN} RETURNING v", returning=("v",)),
}
"""Routes into a table C{t} with columns C{k} and C{v}."""

TRIGGER: Final = """
CREATE SEQUENCE tried;
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.body LIKE 'bad %' THEN
        RAISE EXCEPTION 'not this one' USING ERRCODE = substr(NEW.body, 5, 5);
    ELSIF NEW.body LIKE 'slow%' THEN
        PERFORM nextval('tried');
        PERFORM pg_sleep(60);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER judge BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION judge();
"""


@contextmanager
def judged(database: Database, **keywords: float) -> Iterator[PostgresAdapter]:
    """A store with a table whose trigger raises whatever a message says."""
    with postgres(database, MESSAGES, replace(MESSAGES, name="other"), **keywords) as adapter:
        yield adapter


def fence() -> Fence:
    return Fence(new_lane(), 1)


async def answers(adapter: PostgresAdapter, *messages: bytes, blame: bool = False) -> list[str]:
    """What becomes of a batch, without the texts."""
    written = await adapter.store.write(batch(*messages), fence(), blame=blame)
    return [answer.split(" :")[0] for answer in said([*written.runs])]


def sqlstate_of(answer: str) -> str:
    return answer.partition("sqlstate=")[2]


async def opened(adapter: PostgresAdapter, database: Database) -> None:
    await adapter.store.probe("messages")
    database.execute(TRIGGER)


@pytest_twisted.ensureDeferred
async def test_a_row_that_fails_while_others_pass(database: Database) -> None:
    """Whatever its SQLSTATE it alone is refused, with it, and its neighbours are stored."""
    with judged(database) as adapter:
        await opened(adapter, database)
        for code in CODES:
            found = await answers(adapter, b"good 1", b"bad %s" % code.encode(), b"good 2")
            assert (found[0], found[2]) == ("+OK", "+OK"), code
            assert found[1].startswith("-REJ") and sqlstate_of(found[1]) == code
        assert database.bodies() == ["good 1", "good 2"] * len(CODES)
        assert adapter.pool.lost == 0, "no connection was given up"


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_routes_of_every_kind(database: Database, kind: str) -> None:
    """The same where rows are ignored or updated, return values, or are stored by the user's own
    statement; among others and alone."""
    database.execute(
        "CREATE TABLE t (k text PRIMARY KEY, v int);"
        + TRIGGER.replace("messages", "t").replace("NEW.body", "NEW.k")
    )
    with postgres(database, KINDS[kind]) as adapter:
        for number, code in enumerate(SOME):
            rows = [(f"a{number}", 1), (f"bad {code}", 2), (f"b{number}", 3)]
            for some in (rows, [rows[1]], [rows[1]] * 2):
                written = await adapter.store.write(kv_batch(*some), fence(), blame=True)
                found = [sqlstate_of(answer.split(" :")[0]) for answer in said([*written.runs])]
                assert found == [code if k.startswith("bad") else "" for k, _ in some]
        assert len(database.column("SELECT k FROM t")) == 2 * len(SOME)


@pytest_twisted.ensureDeferred
async def test_a_row_alone_after_one_that_passed(database: Database) -> None:
    """A batch of nothing but bad rows is refused where a row passed before, and would again."""
    with judged(database) as adapter:
        await opened(adapter, database)
        assert await answers(adapter, b"good") == ["+OK"]
        for code in CODES:
            found = await answers(adapter, *[b"bad %s" % code.encode()] * 3)
            assert [sqlstate_of(answer) for answer in found] == [code] * 3
        assert database.bodies() == ["good"]


@pytest_twisted.ensureDeferred
async def test_rows_at_fault_among_many(database: Database) -> None:
    """Of thousands only those at fault are refused, also where the first hundreds are."""
    with judged(database) as adapter:
        await opened(adapter, database)
        many = [b"bad XX000" if n < 200 or n % 100 == 0 else b"%d" % n for n in range(3000)]
        await answers(adapter, b"good")
        found = await answers(adapter, *many)
        assert [answer == "+OK" for answer in found] == [not m.startswith(b"bad") for m in many]


@pytest_twisted.ensureDeferred
async def test_what_mostly_passes_is_tried_again_first(database: Database) -> None:
    """A deadlock or a full disk costs no message, unless a row fails by it again and again while
    others pass."""
    with judged(database) as adapter:
        await opened(adapter, database)
        for code in PASSING:
            bad = b"bad %s" % code.encode()
            # As a statement, and as the block that follows one in which a row was at fault.
            for before in ([], [b"good", b"bad XX000"]):
                if before:
                    await answers(adapter, *before)
                with pytest.raises(TransientError) as caught:
                    await adapter.store.write(batch(b"good", bad), fence())
                assert caught.value.sqlstate == code
            found = await answers(adapter, b"good", bad, blame=True)
            assert found[0] == "+OK" and sqlstate_of(found[1]) == code
            assert [sqlstate_of(a) for a in await answers(adapter, bad, blame=True)] == [code]


@pytest_twisted.ensureDeferred
async def test_what_befalls_every_row_is_no_rows_fault(database: Database) -> None:
    """Where a row that passed before fails as well no message is refused for it."""
    with judged(database) as adapter:
        await opened(adapter, database)
        assert await answers(adapter, b"good") == ["+OK"]
        for code in ("42501", "42P01", "0A000", "3F000", "XX000", "58030", "53100", "57P01"):
            database.execute(
                "CREATE OR REPLACE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE 'all of them' USING ERRCODE = '{code}'; END $$"
            )
            with pytest.raises((RouteError, TransientError)) as caught:
                await adapter.store.write(batch(b"good", b"more"), fence(), blame=True)
            assert getattr(caught.value, "sqlstate", "") == code
        assert database.bodies() == ["good"]


@pytest.mark.parametrize("answer_timeout", [0.2, 5.0])
@pytest.mark.parametrize("kind", ["plain", "update", "own"])
@pytest_twisted.ensureDeferred
async def test_who_waits_for_a_lock_is_not_at_fault(
    database: Database, kind: str, answer_timeout: float
) -> None:
    """However long somebody else holds a row of its key, and however slow that makes it."""
    database.execute("CREATE TABLE t (k text PRIMARY KEY, v int)")
    keywords = {"statement_timeout": 0.5, "answer_timeout": answer_timeout}
    with postgres(database, KINDS[kind], **keywords) as adapter:
        await adapter.store.write(kv_batch(("good", 1)), fence())
        with closing(psycopg2.connect(database.dsn)) as other:
            other.cursor().execute("INSERT INTO t VALUES ('held', 1)")
            for rows in ([("a", 1), ("held", 2), ("b", 3)], [("held", 2)]):
                for blame in (False, True):
                    with pytest.raises(TransientError) as caught:
                        await adapter.store.write(
                            kv_batch(*rows), fence(), blame=blame, patient=answer_timeout < 1
                        )
                    assert caught.value.sqlstate == "55P03"
        await adapter.store.write(kv_batch(("held", 2)), fence())
    assert database.execute("SELECT k, v FROM t ORDER BY k") == [("good", 1), ("held", 2)]


@pytest_twisted.ensureDeferred
async def test_a_row_alone_before_any_passed(database: Database) -> None:
    """Where nothing is known nobody is blamed, until a message that came later is tried out."""
    with judged(database) as adapter:
        await opened(adapter, database)
        for code in ("42501", "XX000", "3F000"):
            bad = b"bad %s" % code.encode()
            with pytest.raises(StoreError):
                await adapter.store.write(batch(bad), fence())
            assert not await adapter.store.try_out(batch(bad, b"bad 42P01"))
        assert await adapter.store.try_out(batch(b"good"))
        assert database.bodies() == [], "and it is not stored by that"
        assert [sqlstate_of(a) for a in await answers(adapter, b"bad 3F000")] == ["3F000"]


@pytest_twisted.ensureDeferred
async def test_a_column_that_nobody_fills(database: Database) -> None:
    """A column made NOT NULL meanwhile is its operator's matter, and no message's."""
    with judged(database) as adapter:
        assert await answers(adapter, b"good") == ["+OK"]
        database.execute(
            "ALTER TABLE messages ADD COLUMN x int; UPDATE messages SET x = 1;"
            "ALTER TABLE messages ALTER COLUMN x SET NOT NULL"
        )
        with pytest.raises(RouteError, match="x"):
            await adapter.store.write(batch(b"more"), fence())
        database.execute("ALTER TABLE messages ALTER COLUMN x DROP NOT NULL")
        assert await answers(adapter, b"more") == ["+OK"]


@pytest_twisted.ensureDeferred
async def test_a_slow_row(database: Database) -> None:
    """A row that takes longer than a statement may is found, and the others are stored."""
    with judged(database, statement_timeout=0.5) as adapter:
        await opened(adapter, database)
        for messages, place in (((b"a", b"slow", b"b"), 1), ((b"slow", b"a"), 0)):
            # The first one is judged by the rows that were stored before.
            database.execute("SELECT setval('tried', 1, false)")
            with pytest.raises(FramesRefused) as caught:
                await adapter.store.write(batch(*messages), fence())
            assert database.column("SELECT nextval('tried')") <= [3], "tried twice at most"
            ((row, outcome),) = caught.value.faults
            assert (row, outcome.sqlstate) == (place, "57014")
            left = [m for m in messages if m != b"slow"]
            assert await answers(adapter, *left) == ["+OK"] * len(left)


@pytest_twisted.ensureDeferred
async def test_a_table_that_is_locked(database: Database) -> None:
    """A lock is nobody's fault; who may wait does not wait for it for long."""
    with judged(database, statement_timeout=2.0, answer_timeout=0.3) as adapter:
        assert await answers(adapter, b"good") == ["+OK"]
        locker = psycopg2.connect(database.dsn)
        try:
            locker.cursor().execute("LOCK TABLE messages")
            with pytest.raises(TransientError) as caught:
                await adapter.store.write(batch(b"more"), fence(), patient=True)
            assert caught.value.sqlstate == "55P03"
        finally:
            locker.close()
        assert await answers(adapter, b"more") == ["+OK"]


@pytest_twisted.ensureDeferred
async def test_a_server_that_takes_no_writes(database: Database) -> None:
    """Of our own server it is an outage: the next connection may lead to another one."""
    with judged(database) as adapter:
        assert await answers(adapter, b"good") == ["+OK"]
        database.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
        async with adapter.pool.checkout() as connection:
            await connection.query("SET default_transaction_read_only = on", None, 5)
        with pytest.raises(OutcomeUnknown):
            await adapter.store.write(batch(b"more"), fence())
        assert await answers(adapter, b"more") == ["+OK"]
