"""
Following through any rotations, truncations and kills, held against what was written.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gateway.commands.send.bookmark import Bookmark
from gateway.commands.send.follow import QUIET
from gateway.commands.send.followed_files import SAVE, Followed, StreamPlace
from gateway.commands.send.inputs import Block, LineCutter

HEADER = b"device;" + b";".join(b"column %d" % n for n in range(40))
"""What each file begins with; longer than the first bytes that are looked at."""

HARMLESS = ("write", "write", "run", "run", "rename", "copytruncate", "kill", "stop", "answer")
HARMFUL = (*HARMLESS, "truncate", "remove", "compress", "replace")


class World:
    """A log and its writer, a sender that dies, and what the gateway has stored of its stream."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.path = folder / "app.log"
        self.state = folder / "state"
        self.told: list[str] = []
        self.written: list[bytes] = []
        self.destroyed: set[bytes] = set()
        self.stored: list[bytes] = []
        self.run: Run | None = None
        self._count = 0
        self.path.write_bytes(HEADER + b"\n")

    # The writer.

    def write(self) -> None:
        if not self.path.exists() or not self.path.stat().st_size:
            self.path.write_bytes(HEADER + b"\n")
        with self.path.open("ab") as file:
            for _ in range(self.random.randrange(1, 6)):
                self._count += 1
                line = b"%d;" % self._count + b"0;" * self.random.randrange(3)
                file.write(line + b"\n")
                self.written.append(line)

    def _shift(self) -> Path:
        for number in range(40, 0, -1):
            for extension in ("", ".gz"):
                one = self.path.with_name(f"app.log.{number}{extension}")
                if one.exists():
                    one.rename(self.path.with_name(f"app.log.{number + 1}{extension}"))
        return self.path.with_name("app.log.1")

    def rename(self) -> None:
        if self.path.exists():
            self.path.rename(self._shift())

    def copytruncate(self) -> None:
        if self.path.exists():
            if self.run is not None:
                self.run.look_if_new()
            shutil.copy(self.path, self._shift())
            os.truncate(self.path, 0)

    def _lose(self, path: Path) -> None:
        self.destroyed |= set(path.read_bytes().splitlines())

    def truncate(self) -> None:
        if self.path.exists():
            if self._nobody_can_tell():
                return
            self._lose(self.path)
            os.truncate(self.path, 0)
            if self.run is not None:
                self.run.look()
            self.write()

    def _nobody_can_tell(self) -> bool:
        """
        Within the header, a file that was truncated and grew again from one that went on; and of
        a file that comes and goes between two looks that it was there.
        """
        if self.run is not None:
            self.run.look()
            return False
        mark = json.loads(self.state.read_bytes())["places"][-1]["mark"]
        came_and_goes = self.path.exists() and self.path.stat().st_ino != mark["inode"]
        return bool(came_and_goes or mark["offset"] <= len(HEADER) + 1)

    def replace(self) -> None:
        if self.path.exists():
            if self._nobody_can_tell():
                return
            self._lose(self.path)
            self.path.unlink()
            self.write()

    def remove(self) -> None:
        if self._nobody_can_tell():
            return
        for path in sorted(self.path.parent.glob("app.log.*")):
            if path.suffix != ".gz":
                self._lose(path)
                path.unlink()

    def compress(self) -> None:
        if self._nobody_can_tell():
            return
        for path in sorted(self.path.parent.glob("app.log.*")):
            if path.suffix != ".gz":
                self._lose(path)
                there = path.stat()
                packed = path.with_name(f"{path.name}.gz")
                packed.write_bytes(gzip.compress(path.read_bytes()))
                os.utime(packed, ns=(there.st_atime_ns, there.st_mtime_ns))
                path.unlink()

    # The sender.

    def started(self) -> Run:
        if self.run is None:
            self.run = Run(self)
        return self.run

    def answer(self) -> None:
        self.started().answer()

    def kill(self) -> None:
        if self.run is not None:
            self.run.kill()
            self.run = None

    def stop(self) -> None:
        if self.run is not None:
            self.run.stop()
            self.run = None

    def drain(self) -> None:
        """Nothing happens any more, and the sender goes on until it has everything."""
        self.write()
        for _ in range(80):
            self.started().read()
            self.started().answer(everything=True)
            self.clock.advance(QUIET)
        self.stop()


class Run:
    """One sender, from its start to its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        bookmark = Bookmark(world.state, "s", world.path)
        self._followed = Followed([world.path], LineCutter, world.clock, world.told.append)
        self._place = StreamPlace(bookmark, self._followed, world.clock)
        have = len(world.stored)
        again = min(world.random.choice((0, 2, 1000)), have - self._place.floor(have))
        self.number = self._place.resume(have - again, have, world.told.append)
        self._flight: list[tuple[Block, int]] = []
        self._sent: list[bytes] = []

    def look_if_new(self) -> None:
        """Of a file that was empty when it was looked at nothing is known by which to find it."""
        (tail,) = self._followed.tails
        if tail.newest is None or not tail.newest.size:
            self.look()

    def look(self) -> None:
        for tail in self._followed.tails:
            tail.check_name()

    def read(self) -> None:
        """Look, and read some."""
        self.look()
        for _ in range(self._world.random.randrange(1, 4)):
            block = self._followed.read_now()
            if block is None:
                return
            self.number = self._place.reading(block, self.number + 1) - 1
            for message in block.messages:
                self.number += 1
                if self.number <= len(self._world.stored):
                    # What is left out, or asked again, is what was stored under its number.
                    assert self._world.stored[self.number - 1] == message
                else:
                    self._sent.append(message)
            self._flight.append((block, self.number))

    def answer(self, everything: bool = False) -> None:
        """The gateway has stored some, and says so."""
        count = len(self._sent)
        self._store(count if everything else self._world.random.randrange(count + 1))
        while self._flight and self._flight[0][1] <= len(self._world.stored):
            self._place.note_answered(*self._flight.pop(0))

    def kill(self) -> None:
        """It may have stored more than it could say."""
        self._store(self._world.random.randrange(len(self._sent) + 1))
        self._followed.close()

    def stop(self) -> None:
        self._place.close()
        self._followed.close()

    def _store(self, count: int) -> None:
        self._world.stored += self._sent[:count]
        del self._sent[:count]


def live(folder: Path, seed: int, steps: list[str]) -> World:
    """Do all that, then nothing but send."""
    world = World(folder, seed)
    world.started().read()  # what was rotated away before nobody followed
    for step in steps:
        world.clock.advance(world.random.choice((0.0, SAVE, 2 * QUIET)))
        if step == "run":
            world.started().read()
        else:
            getattr(world, step)()
    world.drain()
    return world


def data(lines: list[bytes]) -> list[bytes]:
    """All but headers: that of a file that went on as another one began is not sent again."""
    return [line for line in lines if line != HEADER]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(HARMLESS), max_size=25))
def test_nothing_is_lost_where_nothing_is_destroyed(
    seed: int, steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However files are renamed, copied and truncated, and senders killed: each line once, in
    order."""
    world = live(tmp_path_factory.mktemp("log"), seed, steps)
    assert data(world.stored) == world.written, world.told


@settings(max_examples=150, deadline=None)
@example(seed=0, steps=["truncate", "copytruncate", "write", "rename"])
@example(seed=600019, steps=["replace", "compress", "stop", "copytruncate", "write", "rename"])
@example(
    seed=300800,
    steps=["copytruncate", "compress", "write", "stop", "rename", "write", "copytruncate"],
)
@example(seed=300736, steps=["replace", "truncate", "stop", "rename"])
@example(seed=300800, steps=["copytruncate", "compress", "write", "stop", "rename"])
@example(seed=6, steps=["replace", "replace", "run", "rename", "kill"])
@example(seed=200212, steps=["truncate", "run", "answer", "kill"])
@example(seed=2, steps=["truncate", "replace", "run", "stop", "run", "kill"])
@example(seed=1, steps=["copytruncate", "write", "copytruncate", "remove", "run", "kill"])
@example(seed=263, steps=["copytruncate", "truncate", "replace", "kill"])
@example(seed=100016, steps=["rename", "kill", "answer", "write", "rename", "remove"])
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(HARMFUL), max_size=25))
def test_what_is_lost_was_destroyed_and_is_said(
    seed: int, steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files may be removed, compressed and replaced, too: no line comes twice or out of order,
    only those of such files are missing, and it is said that some are."""
    world = live(tmp_path_factory.mktemp("log"), seed, steps)
    stored = data(world.stored)
    kept = set(stored)
    assert stored == [line for line in world.written if line in kept], world.told
    missing = set(world.written) - kept
    assert missing <= world.destroyed, (missing, world.told)
    if missing:
        words = ("lost", "cannot be sent", "not sent", "taken away")
        assert any(word in text for text in world.told for word in words), (missing, world.told)
