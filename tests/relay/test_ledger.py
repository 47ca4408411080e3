"""
What an edge knows after it was killed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.model.batch import Chunk, Origin, Refusal
from gateway.model.errors import EmbeddedError, Unavailable
from gateway.model.outcome import Code, refused
from gateway.relay.ledger import Binding, Ledger, OwnStream
from tests.relay.centre import no_more_than


def refusal(frame: bytes) -> Refusal:
    origin = Origin("127.0.0.1:9", "lines")
    chunk = Chunk("messages", [frame], origin, 1.0, lambda chunk, runs: None)
    return Refusal(chunk, 0, refused(Code.DATA, "no", "22001"), dead_letter=True, counts=False)


def test_bindings_outlive_the_process_and_streams_a_stop(tmp_path: Path) -> None:
    """Bindings are there until they are released; streams are told once, after an orderly stop."""
    path = tmp_path / "relay.db"
    first = Ledger(path)
    assert first.open() == ([], [])
    one, two = Binding("a", 3, 2, "e:w-1", "x", 5, 9), Binding("b", 1, 1, "e:w-2", "y", 1, 2)
    first.bind(one)
    first.bind(two)
    killed = Ledger(path)
    assert killed.open() == ([one, two], [])
    killed.release(["a"])
    killed.close([OwnStream("e:w-3", "z", 7)])
    again = Ledger(path)
    assert again.open() == ([two], [OwnStream("e:w-3", "z", 7)])
    again.release_one("b", 1)
    again.close()
    assert Ledger(path).open() == ([], [])
    assert path.stat().st_mode & 0o777 == 0o600


def test_dead_letters_are_kept_once(tmp_path: Path) -> None:
    """Those of one batch are kept once, however often that is tried."""
    ledger = Ledger(tmp_path / "relay.db")
    ledger.open()
    letters = [refusal(b"a"), refusal(b"b")]
    assert ledger.keep_dead_letters(("lane", 1), letters) == 2
    assert ledger.keep_dead_letters(("lane", 1), letters) == 0
    assert ledger.dead_letters() == 2


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """What cannot be read ends the start with one line."""
    (tmp_path / "relay.db").write_bytes(b"no database" * 100)
    with pytest.raises(EmbeddedError, match="cannot be used"):
        Ledger(tmp_path / "relay.db").open()


def test_a_full_disk(tmp_path: Path) -> None:
    """There is room in advance to note what leaves a spool that filled the disk; where there is
    none left nothing is noted, and that is told."""
    path = tmp_path / "relay.db"
    ledger = Ledger(path)
    ledger.open()
    bindings = [Binding("a", number, number, "e:w-1", "x", number, 1) for number in range(1, 500)]
    with no_more_than(max(file.stat().st_size for file in tmp_path.iterdir())):
        for binding in bindings:
            ledger.bind(binding)
    with no_more_than(0), pytest.raises(Unavailable, match=r"relay.db cannot be written: "):
        ledger.release(["a"])
    with no_more_than(0):
        ledger.close([OwnStream("e:w-3", "z", 7)])
    assert Ledger(path).open() == (bindings, [])
