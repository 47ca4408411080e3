"""
Starts that cannot be: one clean line, status 1, and no traceback; and those that look so and can.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.daemon.embedded import DataDirectory, EmbeddedServer
from gateway.daemon.pid_file import prepare_files
from gateway.model.errors import ConfigError, EmbeddedError
from gateway.system.regular_file import is_there
from tests import forking
from tests.forking import BIN
from tests.support import LISTEN, PATIENCE, Gateway, tool

Start = Callable[..., Gateway]

NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
"""Somebody who is not root inside, but has root's files, so that the interpreter is in reach."""

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs somebody else to be")

GONE = 2**22 + 1
"""One more than any process can have (proc(5), pid_max)."""


def refused(
    cwd: Path,
    *arguments: str,
    twistd: tuple[str, ...] = ("--pidfile=",),
    wrapper: tuple[str, ...] = (),
) -> str:
    """Start a gateway that must refuse; @return: the one line that it says."""
    done = forking.run(
        [*wrapper, str(BIN / "twistd"), "-n", *twistd, "gateway", *LISTEN, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said: str = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said, said
    (line,) = [line for line in said.splitlines() if "gateway: " in line]
    return line.partition("gateway: ")[2]


@contextmanager
def closed(folder: Path) -> Iterator[Path]:
    """A folder that nobody may enter but root."""
    folder.mkdir()
    folder.chmod(0)
    try:
        yield folder
    finally:
        folder.chmod(0o700)


# The data directory.


@AS_ROOT
@pytest.mark.parametrize("inside", ["data", "a/data"])
def test_a_parent_that_is_closed(tmp_path: Path, inside: str) -> None:
    """A data directory that may not even be looked for is one line, with a way out."""
    with closed(tmp_path / "closed") as folder:
        place = folder / inside
        said = refused(tmp_path, "--data-dir", str(place), wrapper=NOBODY)
        advice = "Permission denied; choose another with --data-dir"
        assert said == f"the data directory {place} cannot be used: {advice}"
        said = refused(
            tmp_path, "--data-dir", str(place), "--database", "host=/nowhere", wrapper=NOBODY
        )
        assert said.startswith(f"the spool {place}/spool.db cannot be used: Permission denied; ")


@AS_ROOT
def test_a_spool_that_may_not_be_looked_at(tmp_path: Path) -> None:
    """Where messages are refused in an outage, a spool that may be there is told, not a traceback;
    gateway spool says so too."""
    config = tmp_path / "g.toml"
    with closed(tmp_path / "closed") as folder:
        config.write_text(f'[spool]\non_outage = "refuse"\npath = "{folder}/s.db"\n')
        said = refused(
            tmp_path,
            *("--config", str(config), "--data-dir", str(tmp_path / "data")),
            wrapper=NOBODY,
        )
        assert said.startswith(f"the spool {folder}/s.db cannot be used: Permission denied; ")
        for command in (["list"], ["move-to-dead-letters", "--all"]):
            done = subprocess.run(
                [*NOBODY, BIN / "gateway", "spool", "--spool", folder / "s.db", *command],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            (line,) = done.stderr.splitlines()
            assert done.returncode == 1 and f"{folder}/s.db" in line, line


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    """It is named as one, also further up, and so is a link that leads nowhere."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere/at/all")
    advice = "; choose another with --data-dir"
    for place, reason in (
        ("file", "it is a file, and no folder"),
        ("file/data", "Not a directory"),
        ("link", "it is a link that leads nowhere, and no folder"),
    ):
        said = refused(tmp_path, "--data-dir", place)
        assert said == f"the data directory {tmp_path / place} cannot be used: {reason}{advice}"


@AS_ROOT
def test_a_read_only_file_system(tmp_path: Path) -> None:
    """A place that takes no folders is named with the reason."""
    place = tmp_path / "ro"
    place.mkdir()
    mounted = 'mount -t tmpfs -o ro none "$0" && exec "$@"'
    said = refused(
        tmp_path,
        *("--data-dir", str(place / "data")),
        wrapper=("unshare", "--mount", "sh", "-c", mounted, str(place)),
    )
    assert said.startswith(f"the data directory {place}/data cannot be used: Read-only file system")


@pytest.mark.parametrize(
    "name",
    [
        *('a"b', "a b", "a'b", "$HOME", "`id`", "a\\b", "a%sb", "é\u2028", "a\rb", "~"),
        *("x" * 120, os.fsdecode(b"\xff"), "-D"),
    ],
    ids=ascii,
)
def test_odd_names_of_folders(tmp_path: Path, template: Path, name: str) -> None:
    """The embedded PostgreSQL starts, is found again and stops, whatever its folder is called."""
    folder = tmp_path / name
    folder.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", template, folder / "postgres"], check=True)
    server = EmbeddedServer(folder)
    assert server.start() and server.running and not EmbeddedServer(folder).start()
    try:
        socket = server.socket_dir / ".s.PGSQL.5432"
        assert socket.is_socket() and len(os.fsencode(socket)) <= 107
        read = subprocess.run(
            ["sh", "-c", f"{server.psql} -qAtc 'SELECT 1'"], capture_output=True, check=True
        )
        assert read.stdout == b"1\n"
    finally:
        pid = int((folder / "postgres" / "postmaster.pid").read_bytes().split()[0])
        os.kill(pid, 2)
        while server.running:
            time.sleep(0.01)


def test_a_new_server_in_a_folder_with_an_odd_name(tmp_path: Path, start_gateway: Start) -> None:
    """From nothing to an answer, where the shell would take the name for something else."""
    gateway = start_gateway(*LISTEN, "--data-dir", 'a "$HOME" `id`\\')
    assert gateway.connect().ask(b"hello\n") == b"+OK\n"
    assert (tmp_path / 'a "$HOME" `id`\\' / "postgres.log").exists()
    assert gateway.terminate() == 0 and "Traceback" not in gateway.log


def test_a_line_feed_in_the_name(tmp_path: Path) -> None:
    """PostgreSQL's own file would have a line too many: it is refused in one line."""
    with pytest.raises(EmbeddedError, match="has a line feed in its name"):
        DataDirectory(tmp_path / "a\nb").lock()
    said = refused(tmp_path, "--data-dir", "a\nb")
    assert said.startswith(f"the data directory {tmp_path}/a\\nb has a line feed in its name, ")
    assert not (tmp_path / "a\nb").exists()


# The pid file.


@AS_ROOT
def test_a_pid_file_that_cannot_be(tmp_path: Path) -> None:
    """One that cannot be written or read is told before anything is done."""
    with closed(tmp_path / "closed") as folder:
        for place, reason in (
            (folder / "p", "cannot be read: Permission denied"),
            (tmp_path / "none" / "p", "cannot be written: No such file or directory"),
            (tmp_path, "cannot be read: Is a directory"),
        ):
            said = refused(tmp_path, twistd=(f"--pidfile={place}",), wrapper=NOBODY)
            assert said.startswith(f"--pidfile {place}: {reason}; name another file"), said
    assert not (tmp_path / "gateway-data").exists()


@pytest.mark.parametrize("content", ["garbage", "1x", "-5", "0", "9" * 30, "1 2", "\0"])
def test_garbage_in_the_pid_file(tmp_path: Path, content: str) -> None:
    """What is no number of a process is somebody else's file, and stays."""
    path = tmp_path / "p"
    path.write_text(content)
    with pytest.raises(ConfigError, match="holds no process number; remove it, or name another"):
        prepare_files({"pidfile": str(path)})
    assert path.read_text() == content
    assert "holds no process number" in refused(tmp_path, twistd=(f"--pidfile={path}",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "was empty"),
        ("\n", "was empty"),
        (str(GONE), f"named process {GONE}, which is gone"),
        (str(os.getpid()), "named this process, which has the number of one that is gone"),
    ],
    ids=["nothing", "a line", "gone", "own"],
)
def test_a_pid_file_that_was_left(tmp_path: Path, content: str, said: str) -> None:
    """One that nobody stands behind is taken away, and that is told."""
    path = tmp_path / "p"
    path.write_text(content)
    assert prepare_files({"pidfile": str(path)}) == [
        f"--pidfile {path} {said}, and is written anew"
    ]
    assert not path.exists()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no gateway."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_number_that_another_process_has_by_now(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """A file that is older than the process it names is nobody's; a younger one may be its own."""
    path = tmp_path / "p"
    path.write_text(str(sleeper.pid))
    with pytest.raises(ConfigError, match=rf"process {sleeper.pid} \(sleep\) runs; stop it if"):
        prepare_files({"pidfile": str(path)})
    assert path.exists()
    os.utime(path, (0, 0))
    (note,) = prepare_files({"pidfile": str(path)})
    assert f"named process {sleeper.pid}, which is sleep by now" in note and not path.exists()


def test_a_gateway_is_believed_whatever_the_clock_says(tmp_path: Path) -> None:
    """What runs twistd is left alone, though its file seems to be older: the clock may have been
    set."""
    path = tmp_path / "p"
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "twistd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        path.write_text(str(process.pid))
        os.utime(path, (0, 0))
        with pytest.raises(ConfigError, match=f"process {process.pid} "):
            prepare_files({"pidfile": str(path)})
        process.kill()
    assert path.exists()


def test_a_zombie_is_gone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A process that has ended and that nobody has taken note of is none."""
    path = tmp_path / "p"
    path.write_text(str(sleeper.pid))
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert "which is gone" in prepare_files({"pidfile": str(path)})[0]


@AS_ROOT
def test_the_first_process_of_a_container(tmp_path: Path) -> None:
    """A gateway that was killed as process 1 starts again as process 1."""
    path = tmp_path / "p"
    path.write_text("1")
    container = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(*container, str(BIN / "twistd"), "-n", f"--pidfile={path}", "gateway", *LISTEN),
                *("--database", "host=/nowhere", "--data-dir", str(tmp_path / "data")),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + PATIENCE
        while "named this process, which has" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.01)
        assert path.read_text() == "1"
    finally:
        process.kill()
        process.wait()


def test_files_of_twistd_that_are_not_looked_at(tmp_path: Path) -> None:
    """Without a pid file, or in another root, there is nothing to look at."""
    path = tmp_path / "none" / "p"
    assert prepare_files({}) == prepare_files({"pidfile": ""}) == []
    assert prepare_files({"pidfile": str(path), "chroot": "/"}) == []
    assert prepare_files({"logfile": str(path), "syslog": True}) == []
    assert prepare_files({"logfile": "-", "pidfile": str(tmp_path / "p")}) == []
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """twistd's log is told likewise; one that is there stays as it is."""
    place = tmp_path / "none" / "log"
    said = refused(tmp_path, twistd=("--pidfile=", f"--logfile={place}"))
    assert said == (
        f"--logfile {place}: cannot be written: No such file or directory; name another file, or -"
        " for standard output"
    )
    (tmp_path / "log").write_text("before")
    assert prepare_files({"logfile": str(tmp_path / "log")}) == []
    assert (tmp_path / "log").read_text() == "before"


def test_whether_something_is_there(tmp_path: Path) -> None:
    """Links that lead nowhere are there, what has a file above it is not."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    assert is_there(tmp_path / "file") and is_there(tmp_path / "link")
    assert not is_there(tmp_path / "none") and not is_there(tmp_path / "file" / "x")
    assert tool("spool", "--spool", str(tmp_path / "none"), "list").returncode == 1


def test_a_stop_while_routes_are_opened(tmp_path: Path) -> None:
    """It is no fault: nothing of it is told but the stop."""
    gateway = Gateway(("--database", "host=127.0.0.1 port=1", *LISTEN), tmp_path)
    try:
        gateway.wait_log("database: cannot connect")
        assert gateway.terminate() == 0
        assert "Traceback" not in gateway.log, gateway.log
    finally:
        gateway.end()
