"""
Files that are none: what stands in their place holds nothing up.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from twisted.internet.task import Clock

from gateway.access.grants import AccessSection
from gateway.access.token_file import TokenFile, tokens_of
from gateway.config.listener import TlsSection
from gateway.config.secrets import read_secret
from gateway.daemon.configuration import read_config
from gateway.model.errors import ConfigError
from gateway.system.regular_file import read_plain
from gateway.tls.certificate_watch import CertificateWatch
from gateway.tls.contexts import Contexts
from gateway.tls.files import read_files
from tests.issuer import Issuer

PATIENCE = 10


@pytest.fixture(autouse=True)
def impatience() -> Iterator[None]:
    """What waits for a pipe's writer is woken up, and has failed."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("it waits for somebody who writes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    return path


def test_what_is_read_is_a_plain_file(tmp_path: Path, pipe: Path) -> None:
    """A file or a link to one is read; a pipe, a device, a socket, a folder, a NUL are refused."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"hello")
    link.symlink_to(file)
    assert read_plain(link) == b"hello" and read_plain(file, 2) == b"he"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (pipe, tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(OSError, match="is no plain file"):
                read_plain(path)
    with pytest.raises(IsADirectoryError):
        read_plain(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        read_plain(Path("a\0b"))


@pytest.mark.parametrize(
    "use",
    [
        lambda path: read_config(str(path)),
        lambda path: read_secret(str(path)),
        lambda path: tokens_of(AccessSection(tokens=str(path))),
        lambda path: TokenFile(path).change(lambda text: text, make=True),
        lambda path: read_files(TlsSection(certificate=str(path)), "tls"),
    ],
)
def test_a_pipe_in_place_of_a_file(pipe: Path, use: Callable[[Path], object]) -> None:
    """For whatever is read, or written where tokens are: one line, and no wait."""
    with pytest.raises(ConfigError) as caught:
        use(pipe)
    (problem,) = caught.value.problems
    assert f"{pipe}: cannot be " in problem and problem.endswith(": is no plain file")
    assert pipe.is_fifo()


def test_a_configuration_that_a_shell_hands_over() -> None:
    """A pipe that is named as an open file, as bash's <(...) is, can be read."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"[limits]\nconnections = 7\n")
        os.close(writing)
        assert read_config(f"/dev/fd/{reading}").limits.connections == 7
    finally:
        os.close(reading)


def test_a_pipe_under_the_watch(tmp_path: Path, pipe: Path) -> None:
    """Where a certificate becomes a pipe the watch goes on, and what was shown stays."""
    shown = Issuer(tmp_path).issue("gw.example")
    file = tmp_path / "shown.pem"
    shutil.copy(shown.file, file)
    contexts = Contexts(msgspec.convert({"certificate": str(file)}, TlsSection), "a", lambda: 0.0)
    notes = contexts.notes()
    clock = Clock()
    watch = CertificateWatch(clock, interval=2.0)
    watch.watch([contexts])
    watch.start()
    pipe.rename(file)
    clock.pump([2.0] * 3)
    assert contexts.notes() == notes and clock.getDelayedCalls()
    watch.stop()
