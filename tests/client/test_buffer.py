"""
Buffers: bounds, what survives, and who may have them.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client.answers import OK, BufferBroken, BufferFull, BufferHeld, StreamLost
from gateway.client.blocking import BlockingClient
from gateway.client.buffer import MESSAGE_OVERHEAD, Buffer, DiskBuffer, MemoryBuffer
from tests.client.model import Model, Stream
from tests.client.server import ModelServer
from tests.client.test_session import STEPS, Wired, fickle
from tests.support import wait_until

Serve = Callable[..., ModelServer]


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], Buffer]:
    """Makes a buffer of either kind."""

    def make(max_bytes: int) -> Buffer:
        if request.param == "memory":
            return MemoryBuffer(max_bytes)
        return DiskBuffer(tmp_path / "buffer", max_bytes)

    return make


def test_it_is_bounded(make: Callable[[int], Buffer]) -> None:
    """It takes what fits, all of a call or nothing, and has room again for what is done."""
    buffer = make(10 * (100 + MESSAGE_OVERHEAD))
    buffer.open(None)
    first = buffer.add("r", [b"x" * 100] * 6)
    with pytest.raises(BufferFull, match="max_bytes"):
        buffer.add("r", [b"y" * 100] * 5)
    second = buffer.add("r", [b"z" * 100] * 4)
    assert (first.ordinal, second.ordinal, buffer.given) == (0, 6, 10)
    assert list(second.messages) == [b"z" * 100] * 4
    first.settle(0, 6, OK)
    buffer.save_progress([first], 0, 0)
    assert buffer.size == 4 * (100 + MESSAGE_OVERHEAD)
    buffer.add("r", [b"y" * 100] * 5)
    buffer.close()


def test_it_remembers(tmp_path: Path) -> None:
    """Messages of any bytes, their numbers, and how far they were settled."""
    buffer = DiskBuffer(tmp_path / "buffer")
    assert buffer.open("s") == []
    buffer.save_opening(100, 0, "e-7")
    done = buffer.add("r", [b"", b"\0\n", b"x" * 70000])
    buffer.add("other", [b"4", b"5"])
    done.settle(0, 3, OK)
    buffer.save_progress([done], 4, 1)
    buffer.close()
    again = DiskBuffer(tmp_path / "buffer")
    (left,) = again.open("s")
    assert (again.base, again.epoch, again.given) == (100, "e-7", 5)
    assert (again.settled, again.loose, again.taken) == (4, 1, False)
    assert (left.route, left.ordinal, left.count, left.left) == ("other", 3, 2, 1)
    assert left.messages == [b"4", b"5"]
    again.close()
    assert (tmp_path / "buffer").stat().st_mode & 0o777 == 0o600


def test_a_takeover_is_remembered_until_the_stream_is_opened(tmp_path: Path) -> None:
    """That another client has the stream survives a restart; HELLO's answer ends it at once."""
    path = tmp_path / "buffer"
    for opened, taken in ((False, True), (True, False)):
        buffer = DiskBuffer(path)
        buffer.open("s")
        if opened:
            buffer.save_opening(7, 0, "e-2")
        else:
            buffer.save_opening(3, 0, "e-1")
            buffer.mark_taken()
        buffer.close()
        again = DiskBuffer(path)
        again.open("s")
        assert again.taken == taken
        again.close()
    assert (again.base, again.epoch) == (7, "e-2")


def test_a_client_that_begins_again_says_what_its_buffer_has_seen(tmp_path: Path) -> None:
    """The next client on the file says the last answered number and the epoch, and goes on."""
    path = tmp_path / "buffer"
    model = Model()
    for message in (b"1", b"2"):
        wired = Wired(model, stream="s", buffer=DiskBuffer(path))
        wired.session.put("r", [message])
        wired.settle()
        wired.session.put("r", [message + b" later"])
        wired.session.close()
    assert model.hellos == [b"s", b"s seen=1 epoch=e-1"]
    assert model.table == [b"1", b"1 later", b"2"]


_OLD_FILE = """
CREATE TABLE parcel (ordinal INTEGER PRIMARY KEY, route TEXT NOT NULL,
    count INTEGER NOT NULL, size INTEGER NOT NULL, messages BLOB NOT NULL);
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), stream TEXT NOT NULL, base INTEGER,
    given INTEGER NOT NULL, settled INTEGER NOT NULL, loose INTEGER NOT NULL,
    taken INTEGER NOT NULL);
INSERT INTO state VALUES (1, 's', 10, 4, 3, 1, 0);
INSERT INTO parcel VALUES (3, 'r', 1, 33, x'010000000100000034');
"""


def test_a_file_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """All that it has is kept, no epoch is said until one was told, and then it is there."""
    path = tmp_path / "buffer"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(_OLD_FILE)
    for _ in range(2):
        buffer = DiskBuffer(path)
        (left,) = buffer.open("s")
        assert (buffer.base, buffer.epoch, buffer.given) == (10, "", 4)
        assert (buffer.settled, buffer.loose, left.messages) == (3, 1, [b"4"])
        buffer.close()
    # The refusal that it counts last may have been forgotten by a gateway of that time.
    model = Model()
    model.streams["s"] = Stream(last=12, epoch=b"e")
    for hello in (b"s seen=12", b"s seen=13 epoch=e"):
        wired = Wired(model, stream="s", buffer=DiskBuffer(path))
        wired.settle()
        assert model.hellos[-1] == hello and wired.session.failure is None
        wired.session.close()
    assert model.table == [b"4"] and model.streams["s"].last == 13


def test_it_belongs_to_one_process_and_one_stream(tmp_path: Path) -> None:
    """A second client is refused, and so is another stream while messages are left."""
    path = tmp_path / "buffer"
    buffer = DiskBuffer(path)
    buffer.open("s")
    program = (
        "import sys; from gateway.client.buffer import *; from gateway.client.answers import *\n"
        "try: DiskBuffer(sys.argv[1]).open('s')\nexcept BufferHeld as held: print(held)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert "in use by another process" in said.stdout
    with pytest.raises(BufferHeld):
        DiskBuffer(path).open("s")
    buffer.add("r", [b"x"])
    buffer.close()
    with pytest.raises(BufferBroken, match="stream s, not of stream t"):
        DiskBuffer(path).open("t")
    (left,) = buffer.open("s")
    left.settle(0, 1, OK)
    buffer.save_progress([left], 1, 0)
    buffer.close()
    other = DiskBuffer(path)
    assert other.open("t") == []
    other.close()


def test_what_is_no_buffer_is_told(tmp_path: Path) -> None:
    """Another kind of file, or a folder that is not there: one line that says so."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes, which are long enough to be looked at as a database" * 100)
    before = path.read_bytes()
    with pytest.raises(BufferBroken, match="not a database"):
        DiskBuffer(path).open("s")
    assert path.read_bytes() == before
    with pytest.raises(BufferBroken, match="No such file"):
        DiskBuffer(tmp_path / "none" / "buffer").open("s")


def test_a_torn_tail_is_what_nobody_was_promised(tmp_path: Path) -> None:
    """However much of the log's end is missing, the chunks before it are whole."""
    path = tmp_path / "buffer"
    buffer = DiskBuffer(path)
    buffer.open("s")
    log = tmp_path / "buffer-wal"
    sizes = []
    for n in range(5):
        buffer.add("r", [b"%d" % n, b"x" * 5000])
        sizes.append(log.stat().st_size)
    held = path.read_bytes(), log.read_bytes()
    buffer.close()
    for cut in (sizes[-1], sizes[-1] - 1, sizes[3] + 100, sizes[2] - 7):
        copy = tmp_path / f"copy-{cut}"
        copy.write_bytes(held[0])
        (tmp_path / f"copy-{cut}-wal").write_bytes(held[1][:cut])
        torn = DiskBuffer(copy)
        left = torn.open("s")
        whole = sum(size <= cut for size in sizes)
        assert [parcel.messages[0] for parcel in left] == [b"%d" % n for n in range(whole)]
        torn.close()


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 1000), st.integers(1, 12), st.integers(0, 3))
def test_a_stream_is_exactly_once_over_restarts(
    steps: list[tuple[str, int]], seed: int, window: int, often: int
) -> None:
    """Whatever is cut or refused, and whenever the client dies: each message once, in order."""
    model = Model(max_frame=60)
    fickle(seed, model)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "buffer"
        buffer = DiskBuffer(path)
        wired = Wired(model, stream="s", window=window, buffer=buffer)
        wired.session.open()
        sent: list[bytes] = []
        for step, much in steps:
            if chance.randrange(10) < often:
                # What is not committed dies with the process, and so does the connection.
                if wired.peer is not None:
                    wired.peer.lost()
                buffer.close()
                buffer = DiskBuffer(path)
                wired = Wired(model, stream="s", window=window, buffer=buffer)
                wired.session.open()
            if step == "put":
                messages = [
                    b"%d%s" % (n, (b"", b"", b" bad", b" long" * 20)[n % 4])
                    for n in range(len(sent), len(sent) + much % 9)
                ]
                wired.session.put("r", messages)
                sent += messages
            elif step == "wait":
                wired.now += much / 100
            elif step == "settle":
                wired.settle()
            elif wired.peer is None:
                wired.connect()
            elif step == "up":
                wired.up(much)
            elif step == "down":
                wired.down(much)
            else:
                wired.cut()
        wired.settle()
        assert wired.session.failure is None and not wired.session.unanswered
        assert model.table == [m for m in sent if b"bad" not in m and b"long" not in m]
        buffer.close()


def test_a_buffer_that_was_set_back_is_noticed(tmp_path: Path) -> None:
    """An old copy of the file put back: the numbers do not fit, and the client stops."""
    path = tmp_path / "buffer"
    model = Model()
    wired = Wired(model, stream="s", buffer=DiskBuffer(path))
    wired.session.put("r", [b"1"])
    wired.settle()
    wired.session.close()
    old = path.read_bytes()
    wired = Wired(model, stream="s", buffer=DiskBuffer(path))
    wired.session.put("r", [b"2"])
    wired.settle()
    wired.session.close()
    path.write_bytes(old)
    wired = Wired(model, stream="s", buffer=DiskBuffer(path))
    wired.session.put("r", [b"3"])
    wired.begin()
    wired.up()
    wired.down()
    assert wired.session.failure is None  # nothing was owed: it is taken for another client's
    wired.session.put("r", [b"4"])
    wired.session.close()
    path.write_bytes(old)
    database = sqlite3.connect(path)
    database.execute("INSERT INTO parcel VALUES (1, 'r', 1, 33, x'010000000100000033')")
    database.execute("UPDATE state SET given = 2")
    database.commit()
    database.close()
    model.streams["s"].last = 9
    wired = Wired(model, stream="s", buffer=DiskBuffer(path))
    wired.begin()
    wired.up()
    with pytest.raises(StreamLost, match="buffer was set back"):
        wired.down()
    wired.session.close()


_SENDER = """
import sys, itertools
from gateway.client.blocking import BlockingClient
from gateway.client.buffer import DiskBuffer
port, path, first = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
client = BlockingClient("127.0.0.1", port, stream="s", buffer=DiskBuffer(path), window=50,
                        retry=lambda attempt: 0.01)
for n in itertools.count(first):
    client.post([b"%d" % n])
    print(n, flush=True)
    if n % 20 == 0:
        client.flush()
"""


def test_kill_9(serve: Serve, tmp_path: Path) -> None:
    """A client killed ten times: what its disk had taken is all stored, once and in order."""
    server = serve()
    server.cut_after = 40
    path = tmp_path / "buffer"
    taken = -1
    chance = random.Random(1)
    for _ in range(10):
        sender = subprocess.Popen(
            [sys.executable, "-c", _SENDER, str(server.port), str(path), str(taken + 1)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
        )
        assert sender.stdout is not None
        for _ in range(chance.randrange(20, 200)):
            taken = int(sender.stdout.readline())
        os.kill(sender.pid, signal.SIGKILL)
        rest = re.findall(rb"(\d+)\n", sender.stdout.read())
        taken = int(rest[-1]) if rest else taken
        sender.wait()
        sender.stdout.close()
        # One more may have been taken and not told: what follows takes its place.
        left = DiskBuffer(path)
        left.open("s")
        taken = left.given - 1
        left.close()
    with BlockingClient("127.0.0.1", server.port, stream="s", buffer=DiskBuffer(path)) as client:
        client.flush()
    wait_until(lambda: len(server.model.table) > taken, "all is stored")
    assert server.model.table == [b"%d" % n for n in range(taken + 1)]
