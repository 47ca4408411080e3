"""
Schedules of the simulator, and what it stands on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from gateway.model.batch import Batch, Chunk, Origin, Refusal
from gateway.model.outcome import Code, refused
from gateway.model.stream import Stream
from gateway.spool.file import SpoolFile
from gateway.spool.record import PARTS, Record, RecordGroup, pack, rows_of, unpack
from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import run_all
from tests.simulation.spool_file import Disk, MemorySpoolFile

SCHEDULES = 1500
"""At a hundred and fifty a second or more, as one core does, these are ten seconds."""

LANE = "00000000-0000-4000-8000-000000000001"

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_promise_holds() -> None:
    """Whatever happens, what was answered binds every gateway."""
    for result in islice(run_all(1), SCHEDULES):
        assert not result.finding, "\n".join([*result.trace, f"seed {result.seed}", result.finding])


def test_every_rule_can_still_be_taken_out() -> None:
    """What a mutation replaces is in the code, once: else it would show nothing."""
    for mutation in MUTATIONS:
        for file, old, _ in mutation.replacements:
            count = (ROOT / "gateway" / file).read_text().count(old)
            assert count == 1, f"{mutation.name}: {count} times in {file}: {old}"


def digests(hash_seed: str) -> str:
    """The digests of some schedules' traces, in a process of their own."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.simulation",
            "--first",
            "1",
            "--schedules",
            "150",
            "--verbose",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return "\n".join(line for line in done.stdout.splitlines() if "a second" not in line)


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same trace, in any process."""
    first = digests("1")
    assert first.count("\n") == 149
    assert first == digests("2")


# The file in memory does what the real one does.


@contextmanager
def real_file(path: Path) -> Iterator[SpoolFile]:
    file = SpoolFile(path / "spool.db", 1 << 26)
    file.open()
    try:
        yield file
    finally:
        file.close()


class Files:
    """Opens the same file again and again."""

    def __init__(self, kind: str, path: Path) -> None:
        self._kind = kind
        self._path = path
        self._disk = Disk()

    @contextmanager
    def open(self) -> Iterator[SpoolFile]:
        if self._kind == "real":
            with real_file(self._path) as file:
                yield file
            return
        memory = MemorySpoolFile(self._disk)
        memory.open()
        yield memory
        memory.close()


@pytest.fixture(params=["real", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(request.param, tmp_path)


def batch_of(
    *bodies: bytes, route: str = "one", stream: str | None = None, first: int = 0
) -> Batch:
    of = None if stream is None else Stream(stream, "e", loose=True)
    chunk = Chunk(
        *(route, list(bodies), Origin("p", "lines"), 0.0, lambda chunk, runs: None, None),
        *(of, first),
    )
    return Batch.of([chunk])


def put(
    file: SpoolFile,
    batch: Batch,
    lane: str = LANE,
    number: int | None = None,
    stream: str | None = None,
) -> None:
    file.begin()
    file.append(batch.route, (lane, number), rows_of(batch), pack(batch), stream)
    file.commit()


def parcels(file: SpoolFile, *left_out: str, held: tuple[str, ...] = ()) -> list[RecordGroup]:
    """All that is there, as it would be stored."""
    found = []
    after = 0
    while (parcel := file.next(after, left_out, held)) is not None:
        found.append(parcel)
        after = parcel.end
    return found


def bodies(found: list[RecordGroup]) -> list[list[bytes]]:
    return [[f for piece in parcel.batch.slices for f in piece.frames] for parcel in found]


def test_records_in_order(files: Files) -> None:
    """Records of one lane in a row are one parcel, after a restart too."""
    with files.open() as file:
        put(file, batch_of(b"1", b"2"))
        put(file, batch_of(b"3"))
        put(file, batch_of(b"4", route="two"), number=7)
        put(file, batch_of(b"5"))
        assert file.rows == {"one": 4, "two": 1}
    with files.open() as file:
        found = parcels(file)
        assert bodies(found) == [[b"1", b"2", b"3"], [b"4"], [b"5"]]
        fences = [(parcel.fence.first, parcel.fence.number) for parcel in found]
        assert fences == [(1, 2), (7, 7), (4, 4)]
        assert [parcel.end for parcel in found] == [2 << PARTS, 3 << PARTS, 4 << PARTS]
        assert bodies(parcels(file, "one")) == [[b"4"]]
        assert file.lanes() == {LANE}
        assert file.messages == 5


def test_streams_put_aside(files: Files) -> None:
    """What waits for a stream is counted by it, and left out with it."""
    with files.open() as file:
        put(file, batch_of(b"1", stream="s", first=1), number=1, stream="s")
        put(file, batch_of(b"2", route="two", stream="t", first=2), number=1, stream="t")
        put(file, batch_of(b"3"))
        assert (file.rows, file.aside) == ({"one": 1}, {"s": 1, "t": 1})
        assert bodies(parcels(file)) == [[b"1"], [b"2"], [b"3"]]
        assert bodies(parcels(file, held=("s",))) == [[b"2"], [b"3"]]
        assert bodies(parcels(file, "two", held=("s", "t"))) == [[b"3"]]


def test_pieces_take_a_place(files: Files) -> None:
    """Pieces of a record come where it was; what is not committed never was."""
    with files.open() as file:
        put(file, batch_of(b"a", b"b", b"c"))
        put(file, batch_of(b"d"))
        (record,) = unpack([parcels(file)[0].records[0]]).records
        whole = unpack([record]).batch
        place = record.place
        pieces: list[Record] = []
        for rows in ([0], [1, 2]):
            part = whole.only(rows)
            lane = f"00000000-0000-4000-8000-00000000000{2 + len(pieces)}"
            pieces.append(Record(place, record.route, lane, 1, rows_of(part), pack(part)))
            place += rows_of(part)
        file.begin()
        file.replace(record, pieces)
        file.rollback()
        assert bodies(parcels(file)) == [[b"a", b"b", b"c", b"d"]]
        file.begin()
        file.replace(record, pieces)
        file.commit()
        assert bodies(parcels(file)) == [[b"a"], [b"b", b"c"], [b"d"]]
        assert file.rows == {"one": 4}
        file.begin()
        file.remove(pieces[:1])
        file.commit()
    with files.open() as file:
        assert bodies(parcels(file)) == [[b"b", b"c"], [b"d"]]
        put(file, batch_of(b"e"))
        assert parcels(file)[-1].records[-1].place == 3 << PARTS


def test_batches(files: Files) -> None:
    """All that is there is told record by record, refusals too."""
    with files.open() as file:
        put(file, batch_of(b"1", stream="s", first=1))
        chunk = batch_of(b"2", stream="s", first=2).slices[0].chunk
        put(file, Batch("one", [], [Refusal(chunk, 0, refused(Code.DATA, "no"))]))
        first, second = file.batches()
        assert [piece.first for piece in first.slices] == [1]
        assert [refusal.number for refusal in second.refusals] == [2]
        assert file.rows == {"one": 2}
