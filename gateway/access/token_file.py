"""
File of tokens: only its owner may read it, and it is replaced as a whole.

A writer holds a lock on it meanwhile, so that two at once do not undo each
other's work, and a gateway that reads it finds the old file or the new one.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from gateway.access.grants import AccessSection
from gateway.access.tokens import Token, read_tokens
from gateway.model.errors import ConfigError
from gateway.system.regular_file import plain_file

PRIVATE: Final = 0o600
"""The widest mode that the file may have."""


def tokens_of(section: AccessSection | None) -> Mapping[str, Token] | None:
    """
    Read the tokens of a configuration, by ID; return C{None} where it names no file of them.

    @raise ConfigError: with every problem.
    """
    if section is None or section.tokens is None:
        return None
    text = TokenFile(Path(section.tokens)).read_text()
    if not text:
        # An interrupted write leaves it so; then no peer could connect.
        text = "is empty; who wants to let nobody in leaves a comment in it"
        raise ConfigError([f"{section.tokens}: {text}"])
    return read_tokens(text, section.tokens)


class TokenFile:
    """
    File of tokens.

    @ivar path: path as it was given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_text(self) -> str:
        """
        Return its text.

        @raise ConfigError: with one line that says what to do.
        """
        try:
            with plain_file(self.path) as handle:
                self._check_mode(os.fstat(handle))
                with os.fdopen(handle, "rb", closefd=False) as file:
                    return file.read().decode()
        except OSError as error:
            raise self._unusable("read", error) from None
        except UnicodeDecodeError as error:
            raise self._fault(f"not UTF-8 at byte {error.start}") from None

    def change(self, edit: Callable[[str], str], make: bool = False) -> None:
        """
        Replace its text.

        @param edit: the present text -> the new one. Nothing is changed where it
            raises an exception.
        @param make: whether a file that is not there is made.
        @raise ConfigError: with one line that says what to do.
        """
        try:
            # A symbolic link stays; the file behind it is replaced.
            target = Path(os.path.realpath(self.path))
            if make and not target.exists():
                with suppress(FileExistsError):
                    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
            with self._locked(target) as there:
                self._replace(target, there, edit(self.read_text()))
        except OSError as error:
            raise self._unusable("written", error) from None

    @contextmanager
    def _locked(self, target: Path) -> Iterator[os.stat_result]:
        while True:
            with plain_file(target) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                there = os.fstat(handle)
                # Another may have replaced it while this one waited.
                with suppress(FileNotFoundError):
                    if os.path.samestat(there, target.stat()):
                        yield there
                        return

    def _replace(self, target: Path, there: os.stat_result, text: str) -> None:
        """Put a new file in its place, with the owner and mode of the old one."""
        # Made with mode 0600.
        handle, name = tempfile.mkstemp(".new", f"{target.name}.", target.parent)
        new = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                made = os.fstat(handle)
                if (made.st_uid, made.st_gid) != (there.st_uid, there.st_gid):
                    os.fchown(handle, there.st_uid, there.st_gid)
                os.fchmod(handle, stat.S_IMODE(there.st_mode))
                file.write(text.encode())
                file.flush()
                os.fsync(handle)
            new.replace(target)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _check_mode(self, there: os.stat_result) -> None:
        if stat.S_IMODE(there.st_mode) & ~PRIVATE:
            raise self._fault(
                f"has mode {stat.S_IMODE(there.st_mode):04o}: others may get at it;"
                f" run: chmod 600 {self.path}"
            )

    def _unusable(self, done: str, error: OSError) -> ConfigError:
        if isinstance(error, FileNotFoundError) and self.path.parent.is_dir():
            return self._fault(
                f"is not there; 'gateway token add IDENTITY --file {self.path}' makes it"
            )
        return self._fault(f"cannot be {done}: {error.strerror}")

    def _fault(self, text: str) -> ConfigError:
        return ConfigError([f"{self.path}: {text}"])
