"""
Numbered streams and several gateways on one database: an answer that was given binds them all.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from tests.faults.look import BACKENDS, Start, assert_quiet
from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway, TemporaryServer, wait_until

StartProxy = Callable[[str], FaultProxy]

CONFIG = """
[database]
dsn = '''{dsn}'''
acquire_timeout = 0.3
connect_timeout = 1.0
answer_timeout = 1.0
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
table = "messages"
[routes.others]
table = "others"
"""

TABLE = (
    "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, peer text,"
    " body text NOT NULL)"
)

LETTERS = "SELECT convert_from(frame, 'UTF8') FROM gateway.dead_letter ORDER BY id"

OURS = ("messages", "gateway.lane", "gateway.stream", "gateway.digest", "gateway.refusal")
"""Tables that a restored database has older copies of."""


class Site:
    """
    A gateway with a spool of its own, and the line to its database.
    """

    def __init__(self, start: Start, proxy: FaultProxy, database: Database, folder: Path) -> None:
        self._start = start
        self._proxy = proxy
        self._folder = folder
        folder.mkdir()
        config = CONFIG.format(dsn=proxy.dsn(database.dsn))
        (folder / "gateway.toml").write_text(config)
        self.gateways: list[Gateway] = []
        self.start()

    def start(self) -> None:
        self.gateways.append(self._start("--config", "gateway.toml", cwd=self._folder))

    def start_again(self) -> None:
        """Whatever its database is like."""
        self.gateways.append(Gateway(("--config", "gateway.toml"), self._folder))

    @property
    def gateway(self) -> Gateway:
        return self.gateways[-1]

    def cut_off(self) -> None:
        self._proxy.tell("refuse")
        self._proxy.tell("reset")

    def join(self) -> None:
        self._proxy.tell("accept")

    def kill(self) -> None:
        self.gateway.process.kill()
        self.gateway.process.wait()

    def talk(self, *lines: str) -> list[str]:
        """All answers to some commands on a connection of their own."""
        peer = self.gateway.connect("commands")
        said = peer.ask("".join(f"{line}\n" for line in lines).encode())
        return said.decode().splitlines()

    def until(self, line: str, answer: str) -> str:
        """Say something again and again until it is answered so."""
        said = ""

        def look() -> bool:
            nonlocal said
            (said,) = self.talk(line)
            return said.startswith(answer)

        wait_until(look, f"{line} is answered {answer}")
        return said


@pytest.fixture
def sites(
    start_gateway: Start, start_proxy: StartProxy, database: Database, tmp_path: Path
) -> Iterator[tuple[Site, Site]]:
    """Two gateways on one database."""
    for name in ("messages", "others"):
        database.execute(TABLE.format(name))
    a, b = (
        Site(start_gateway, start_proxy(database.dsn), database, tmp_path / name)
        for name in ("a", "b")
    )
    yield a, b
    for site in (a, b):
        for gateway in site.gateways:
            gateway.end()
            assert_quiet(gateway)


def epoch_of(greeting: str, seq: int) -> str:
    found = re.fullmatch(rf"\+OK seq={seq} epoch=(\S+)", greeting)
    assert found is not None, greeting
    return found[1]


def put(number: int, route: str = "messages", text: str = "m") -> str:
    return f"PUT {route} #{number} {text}{number}"


@contextmanager
def kept(database: Database) -> Iterator[Callable[[], None]]:
    """
    A backup of what the gateways have in a database.

    @return: a call sets the database back to it.
    """
    names = [name.replace(".", "_") for name in OURS]
    for name, table in zip(names, OURS, strict=True):
        database.execute(f"CREATE TABLE kept_{name} AS TABLE {table}")

    def set_back() -> None:
        tables = ", ".join(OURS)
        database.execute(
            f"BEGIN; TRUNCATE {tables};"
            + "".join(
                f"INSERT INTO {table} {'OVERRIDING SYSTEM VALUE' if '.' not in table else ''}"
                f" TABLE kept_{name};"
                for name, table in zip(names, OURS, strict=True)
            )
            + "COMMIT"
        )

    yield set_back


def test_hello_is_not_answered_from_memory(sites: tuple[Site, Site], database: Database) -> None:
    """
    Number 51: a gateway that is cut off while a stream went on elsewhere never tells an older
    number, and goes on for a peer that says what it has seen, as far as it has settled that.
    """
    a, b = sites
    said = a.talk("HELLO s", put(1), put(2))
    epoch = epoch_of(said[0], 0)
    assert said[1:] == ["+OK"] * 2
    assert b.talk(f"HELLO s seen=2 epoch={epoch}", put(3), put(4))[1:] == ["+OK"] * 2
    a.cut_off()
    assert a.until("HELLO s", "-TRY").startswith("-TRY DOWN retry=1 :")
    assert a.talk("HELLO s", put(3))[1].startswith("-TRY DOWN retry=1 :")
    assert a.talk(f"HELLO s seen=4 epoch={epoch}")[0].startswith("-TRY GAP retry=1 :")
    # Who did not hear of #3 and #4 sends the same again.
    said = a.talk(f"HELLO s seen=2 epoch={epoch}", put(3), put(4), put(5))
    assert said == [f"+OK seq=2 epoch={epoch}", *["+QUE"] * 3]
    a.join()
    a.gateway.wait_log("spool: empty, its 1 messages are stored, 2 were stored by another way")
    assert b.talk(f"HELLO s seen=5 epoch={epoch}") == [f"+OK seq=5 epoch={epoch}"]
    assert database.bodies() == [f"m{n}" for n in range(1, 6)]
    assert not database.column(LETTERS)


def test_queued_at_one_gateway(sites: tuple[Site, Site], database: Database) -> None:
    """
    Number 52: what one gateway has in its spool is waited for by a peer that says so at another
    one, and nothing is missing.
    """
    a, b = sites
    epoch = epoch_of(a.talk("HELLO s", put(1))[0], 0)
    a.cut_off()
    a.until("PUT messages away", "+QUE")
    said = a.talk(f"HELLO s seen=1 epoch={epoch}", put(2), put(3))
    assert said == [f"+OK seq=1 epoch={epoch}", "+QUE", "+QUE"]
    assert (
        b.talk(f"HELLO s seen=3 epoch={epoch}", put(4))
        == [
            "-TRY GAP retry=1 seq=1 :the stream has not come as far as it was answered (it is at"
            " #1):"
            " the rest may wait in another gateway's spool"
        ]
        * 2
    )
    a.kill()
    a.start_again()
    a.join()
    b.until(f"HELLO s seen=3 epoch={epoch}", "+OK")
    assert b.talk(f"HELLO s seen=3 epoch={epoch}", put(4)) == [f"+OK seq=3 epoch={epoch}", "+OK"]
    assert database.bodies() == ["m1", "away", "m2", "m3", "m4"]
    assert not database.column(LETTERS)


def test_who_does_not_say_what_it_has_seen(sites: tuple[Site, Site], database: Database) -> None:
    """
    Number 52: where a peer goes on at another gateway without a word of what it has seen, what
    waited for it in a spool is a dead letter, unless it was sent there again.
    """
    a, b = sites
    a.talk("HELLO s", put(1))
    a.cut_off()
    peer = a.gateway.connect("commands")
    peer.send(b"HELLO s seen=1\n")
    peer.read_lines(1)
    peer.send("".join(f"{put(n)}\n" for n in (2, 3)).encode())
    assert peer.read_lines(2) == [b"+QUE"] * 2
    # One of them again, then another one under the number of the second.
    epoch_of((said := b.talk("HELLO s", put(2), put(3, text="x")))[0], 1)
    assert said[1:] == ["+OK"] * 2
    a.join()
    a.gateway.wait_log("1 were stored by another way, 1 refused and kept as dead letters")
    assert database.bodies() == ["m1", "m2", "x3"]
    assert database.column(LETTERS) == ["m3"]
    assert (
        "its peer went on elsewhere" in database.column("SELECT error FROM gateway.dead_letter")[0]
    )
    peer.send(f"{put(4)}\n".encode())
    assert peer.read_lines(1)[0].startswith((b"-BYE BUSY", b"-BYE GAP"))
    peer.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_route_out_of_service(
    sites: tuple[Site, Site], database: Database, restarted: bool
) -> None:
    """
    Number 53: what a stream has queued for a route that is out of service is not overtaken by
    what it sends to others, at this gateway or another; everybody else goes on.
    """
    a, b = sites
    epoch = epoch_of(a.talk("HELLO s", put(1), put(2, "others"))[0], 0)
    a.cut_off()
    a.until("PUT others away", "+QUE")
    assert a.talk(f"HELLO s seen=2 epoch={epoch}", put(3), put(4, "others"), put(5)) == [
        f"+OK seq=2 epoch={epoch}",
        *["+QUE"] * 3,
    ]
    database.execute("ALTER TABLE messages RENAME TO gone")
    if restarted:
        a.kill()
        a.start_again()
    a.join()
    a.gateway.wait_log("stream s: its messages from #4 on wait in .* for #3, which waits in")
    a.until("PUT others free", "+OK")
    assert a.until("HELLO t", "+OK") and a.talk("HELLO t", put(1, "others"))[1] == "+OK"
    assert a.talk(f"HELLO s seen=5 epoch={epoch}", put(6, "others")) == [
        f"+OK seq=5 epoch={epoch}",
        "+QUE",
    ]
    assert b.talk(f"HELLO s seen=6 epoch={epoch}")[0].startswith("-TRY GAP")
    assert database.bodies("others") == ["m2", "away", "free", "m1"]
    database.execute("ALTER TABLE gone RENAME TO messages")
    b.until(f"HELLO s seen=6 epoch={epoch}", "+OK")
    assert database.bodies() == ["m1", "m3", "m5"]
    assert database.bodies("others") == ["m2", "away", "free", "m1", "m4", "m6"]
    assert not database.column(LETTERS)
    # Alone, streams and others are answered +OK again.
    assert b.talk(f"HELLO s seen=6 epoch={epoch}", put(7), put(8, "others"))[1:] == ["+OK"] * 2


def test_set_back_under_a_stream(sites: tuple[Site, Site], database: Database) -> None:
    """Number 54: a database that is set back under an open stream is told by GAP, at once."""
    a, b = sites
    peer = a.gateway.connect("commands")
    peer.send(f"HELLO s\n{put(1)}\n{put(2)}\n".encode())
    epoch = epoch_of(peer.read_lines(3)[0].decode(), 0)
    with kept(database) as set_back:
        peer.send(f"{put(3)}\n{put(4)}\n".encode())
        assert peer.read_lines(2) == [b"+OK"] * 2
        set_back()
    peer.send(f"{put(5)}\n".encode())
    assert peer.read_lines(1)[0].startswith(b"-BYE GAP :the database is behind")
    peer.close()
    for site in (a, b):
        said = site.talk(f"HELLO s seen=4 epoch={epoch}")[0]
        assert said.startswith("-TRY GAP retry=1 seq=2 :") and "it is at #2" in said
    assert epoch_of(b.talk("HELLO s")[0], 2) != epoch
    assert database.bodies() == ["m1", "m2"]


@pytest.mark.parametrize("refused", [False, True])
def test_set_back_in_an_outage(sites: tuple[Site, Site], database: Database, refused: bool) -> None:
    """
    Number 54: the same with an outage's spool in between, and with a refusal in it: GAP is told,
    HELLO covers nothing that is gone, what waits can be seen, and nothing is stored out of order.
    """
    a, b = sites
    peer = a.gateway.connect("commands")
    peer.send(f"HELLO s\n{put(1)}\n{put(2)}\n".encode())
    epoch = epoch_of(peer.read_lines(3)[0].decode(), 0)
    with kept(database) as set_back:
        peer.send(f"{put(3)}\n{put(4)}\n".encode())
        assert peer.read_lines(2) == [b"+OK"] * 2
        a.cut_off()
        a.until("PUT messages away", "+QUE")
        peer.send(b"PUT nowhere #5 x\n" if refused else f"{put(5)}\n".encode())
        assert peer.read_lines(1)[0].startswith(b"-REJ ROUTE" if refused else b"+QUE")
        peer.send(f"{put(6)}\n".encode())
        assert peer.read_lines(1) == [b"+QUE"]
        set_back()
    a.join()
    a.gateway.wait_log("stream s: its messages from #5 on wait in .* for #3, which .* have not got")
    # Whoever is there is told without having asked.
    assert peer.read_lines(1)[0].startswith(b"-BYE GAP :the database is behind")
    peer.close()
    for site in (a, b):
        assert site.talk(f"HELLO s seen=6 epoch={epoch}")[0].startswith("-TRY GAP")
    assert database.bodies() == ["m1", "m2", "away"]
    said = a.talk("HELLO s", put(3, text="x"))
    assert epoch_of(said[0], 2) != epoch
    a.gateway.wait_log("kept as a dead letter")
    wait_until(lambda: len(database.column(LETTERS)) == (1 if refused else 2), "dead letters")
    assert database.column(LETTERS) == (["m6"] if refused else ["m5", "m6"])
    assert b.talk("HELLO s", put(3, text="x"))[1].startswith(("+DUP", "+OK"))
    a.until("PUT messages again", "+OK")
    assert sorted(set(database.bodies())) == ["again", "away", "m1", "m2", "x3"]


def test_a_refusal_is_of_its_message(sites: tuple[Site, Site], database: Database) -> None:
    """
    Number 55: a refusal at one gateway is never told of another message that was stored under
    its number elsewhere.
    """
    a, b = sites
    epoch = epoch_of(a.talk("HELLO s", put(1))[0], 0)
    a.cut_off()
    a.until("PUT messages away", "+QUE")
    said = a.talk(f"HELLO s seen=1 epoch={epoch}", "PUT nowhere #2 bad")
    assert said[1].startswith("-REJ ROUTE")
    assert b.talk(f"HELLO s seen=1 epoch={epoch}", put(2), put(3))[1:] == ["+OK"] * 2
    a.join()
    a.gateway.wait_log("spool: empty")
    for site in (a, b):
        said = site.talk(f"HELLO s seen=3 epoch={epoch}", put(2), put(3))
        assert said == [f"+OK seq=3 epoch={epoch}", "+DUP", "+DUP"]
    assert not database.column("SELECT number FROM gateway.refusal")
    assert [body for body in database.bodies() if body != "away"] == ["m1", "m2", "m3"]


def test_a_refusal_is_kept_before_it_is_told(sites: tuple[Site, Site], database: Database) -> None:
    """A refusal uses its number up at every gateway, whatever happens to the one that said it."""
    a, b = sites
    said = a.talk("HELLO s", put(1), "PUT messages #2 \0", "PUT nowhere #3 x")
    epoch = epoch_of(said[0], 0)
    assert [answer[:9] for answer in said[1:]] == ["+OK", "-REJ DATA", "-REJ ROUT"]
    a.kill()
    said = b.talk(f"HELLO s seen=3 epoch={epoch}", "PUT messages #2 \0", put(3), put(4))
    assert said[0] == f"+OK seq=3 epoch={epoch}"
    assert [answer[:9] for answer in said[1:]] == ["-REJ DATA", "-REJ ROUT", "+OK"]
    assert database.bodies() == ["m1", "m4"]


def test_a_frozen_backend_comes_late(
    own_server: TemporaryServer, start_gateway: Start, tmp_path: Path
) -> None:
    """
    Number 56: a backend that is frozen with a batch in flight, and goes on when that batch is
    long stored and its gateway was killed and started again, stores nothing.
    """
    database = Database(own_server.embedded.dsn)
    for name in ("messages", "others"):
        database.execute(TABLE.format(name))
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "gateway.toml").write_text(CONFIG.format(dsn=database.dsn))
    first = start_gateway("--config", "gateway.toml", cwd=folder)
    assert first.connect().ask(b"before\n") == b"+OK\n"
    frozen = database.column(BACKENDS)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    peers = [first.connect(), first.connect()]
    try:
        for place, peer in enumerate(peers):
            peer.send(b"late %d\n" % place)
        for peer in peers:
            assert peer.read_lines(1)[0] in (b"+OK", b"+QUE")
        wait_until(lambda: len(database.bodies()) == 3, "both are stored by another way")
        first.wait_log("spool: empty")
        first.process.kill()
        first.process.wait()
        second = start_gateway("--config", "gateway.toml", cwd=folder)
        second.wait_ready()
        # What the spool of the first still held when it was killed is stored first.
        assert second.connect().ask(b"after\n") in (b"+OK\n", b"+QUE\n")
        wait_until(lambda: "after" in database.bodies(), "the next message is stored")
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    alive = f"SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(ARRAY{frozen})"
    wait_until(lambda: database.column(alive) == [0], "the frozen ones have gone on and ended")
    assert sorted(database.bodies()) == ["after", "before", "late 0", "late 1"]
    assert_quiet(first)
    assert_quiet(second)


def test_answers_have_a_deadline(sites: tuple[Site, Site], database: Database) -> None:
    """
    A batch that the database does not answer within answer_timeout is in the spool, with its
    fence, long before statement_timeout; it is stored once.
    """
    a, _ = sites
    a.talk("PUT messages before")
    holder = psycopg2.connect(database.dsn)
    holder.cursor().execute("LOCK TABLE messages")
    begun = time.monotonic()
    assert a.talk("PUT messages locked out") == ["+QUE"]
    assert time.monotonic() - begun < 10.0  # statement_timeout is 30 s
    holder.close()
    a.gateway.wait_log("spool: empty")
    assert database.bodies() == ["before", "locked out"]
    a.until("PUT messages after", "+OK")
