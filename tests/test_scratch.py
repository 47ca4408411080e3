"""
Where tests have their files.
"""

from __future__ import annotations

from pathlib import Path

from tests.scratch import ROOM, Scratch, bury_the_dead, in_memory


def test_only_where_there_is_room(tmp_path: Path) -> None:
    """Without enough room, or without the place, it has to be a disk."""
    assert in_memory(tmp_path, 2**60) is None
    assert in_memory(tmp_path / "nowhere", ROOM) is None
    scratch = in_memory(tmp_path, 1)
    assert scratch is not None and not scratch.folder.exists()
    scratch.folder.mkdir()
    scratch.remove()
    assert not list(tmp_path.iterdir())


def test_what_was_left_is_removed(tmp_path: Path) -> None:
    """A run that was killed leaves nothing for good, one that goes on loses nothing."""
    alive = Scratch(tmp_path)
    alive.folder.mkdir()
    dead = tmp_path / "gw-dead"
    dead.mkdir()
    (dead / "in-use").touch()
    begun = tmp_path / "gw-begun"
    begun.mkdir()
    bury_the_dead(tmp_path)
    assert alive.folder.exists() and begun.exists() and not dead.exists()
    alive.remove()
