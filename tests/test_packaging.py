"""
The wheel: installed alone in a fresh environment, twistd knows the gateway.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path, PurePath

import pytest
from msgspec.structs import replace
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway.config.load import default_config, draft
from gateway.config.toml import tables_of
from gateway.daemon.configuration import endpoint_fault
from tests.forking import BIN
from tests.installing import LAZY

ROOT = Path(__file__).parent.parent


def locked(lock: str = "requirements.lock") -> list[tuple[str, str, list[str]]]:
    """Name, version and hashes of all that is locked."""
    found = []
    for entry in (ROOT / lock).read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            pin, *hashes = entry.split()
            name, _, version = pin.partition("==")
            found.append((name, version, hashes))
    return found


def test_what_is_locked() -> None:
    """Each entry has a version and hashes; whatever the README's commands need is there."""
    for name, version, hashes in locked():
        assert version and hashes, name
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes), name
    versions = {name: version for name, version, _ in locked()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("binary", "embedded", "test"):
        wanted += project["optional-dependencies"][extra]
    for text in wanted:
        requirement = Requirement(text)
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_what_is_locked_to_run_it() -> None:
    """A part of the other, of the same versions and hashes, whole for a gateway, without tools."""
    run, everything = locked("requirements-run.lock"), locked()
    assert [entry for entry in run if entry not in everything] == []
    names = {name for name, _, _ in run}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("binary", "embedded", "forward", "regex", "cbor"):
        wanted += project["optional-dependencies"][extra]
    assert {canonicalize_name(Requirement(text).name) for text in wanted} <= names
    assert names.isdisjoint(("pytest", "mypy", "ruff", "hatchling"))


def test_what_packages_say() -> None:
    """The Debian package has the project's version, and its configuration is what README and image
    have: lines, netstrings and commands at the README's ports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    head = (ROOT / "debian" / "changelog").read_text().splitlines()[0]
    assert head.startswith(f"txgateway ({project['version']}) ")
    debian, image = (
        draft(tables_of((ROOT / name).read_text(), name), PurePath("/etc/g.toml"), endpoint_fault)
        for name in ("debian/gateway.toml", "etc/container.toml")
    )
    assert debian.problems == []
    assert image.problems == [
        "/etc/g.toml: database.dsn: ${GATEWAY_DSN}: the environment has no GATEWAY_DSN; set it,"
        " or write ${GATEWAY_DSN:-DEFAULT}"
    ]
    default = default_config()
    assert debian.config.listeners == default.listeners
    assert debian.config.database == default.database
    for packaged in (debian.config, image.config):
        assert packaged.routes == default.routes and packaged.queries == default.queries
        assert packaged.spool == default.spool and packaged.log == default.log
    assert {
        name: replace(listener, endpoint=f"{listener.endpoint}:interface=127.0.0.1")
        for name, listener in image.config.listeners.items()
    } == default.listeners


def test_the_image_is_made_of_what_is_there() -> None:
    """What the Dockerfile copies is there and let in, and what it runs is what the unit runs."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    let_in = re.findall(r"^!(.*?)/?$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in let_in)
    copied = re.findall(
        r"^COPY (?:--chown=\S+ --chmod=\S+ )?([^-.].*) \S+$", dockerfile, re.MULTILINE
    )
    assert copied and all(name in let_in for names in copied for name in names.split())
    run = [
        json.loads(found) for found in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", dockerfile, re.M)
    ]
    (tini, end, *twistd), arguments = run
    assert (tini, end) == ("tini", "--")
    unit = (ROOT / "etc" / "systemd" / "gateway.service").read_text()
    assert f"bin/{' '.join([*twistd, *arguments])}\n" in unit
    # Kubernetes puts args in the place of CMD.
    assert f"args: [{', '.join(arguments)}]" in (ROOT / "etc" / "kubernetes.yaml").read_text()


@pytest.mark.parametrize(
    "script", sorted((ROOT / "debian").glob("txgateway.p*")), ids=lambda p: p.name
)
def test_scripts_of_the_debian_package(script: Path) -> None:
    """A shell takes them, they end at the first error, and debhelper has its place in them."""
    text = script.read_text()
    assert text.startswith("#!/bin/sh\nset -e\n") and "\n#DEBHELPER#\n" in text
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.long
def test_the_wheel_brings_the_plugin(tmp_path: Path) -> None:
    """Plugin, SQL files and type marker are in it, nobody else's modules are."""
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("gateway/py.typed", "gateway/postgres/schema/0001_lane.sql"):
        assert wanted in names
    assert [n for n in names if n.startswith("twisted/")] == ["twisted/plugins/gateway_plugin.py"]
    # The wheel has no hash there; versions alone are no hashes for pip to require.
    constraints = tmp_path / "constraints"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version, _ in locked()))
    # Without a pip of its own: ours can install there.
    venv.create(tmp_path / "fresh")
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python),
            *("install", "-q", "-c", constraints, f"{wheel}[binary]"),
        ],
        env={**os.environ, **LAZY},
        check=True,
    )

    def twistd(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python.with_name("twistd"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    said = twistd("--help")
    assert said.returncode == 0 and "gateway" in said.stdout
    said = twistd("gateway", "--help")
    assert said.returncode == 0 and "--netstring=" in said.stdout
    # Without the extra, the one thing that is missing is said, with what to do.
    alone = twistd("-n", "gateway", "--line", "tcp:0:interface=127.0.0.1")
    assert alone.returncode == 1
    assert "pip install 'txgateway[embedded]'" in alone.stdout + alone.stderr


@pytest.mark.parametrize("command", [["twistd", "-n", "gateway"], ["gateway", "check", "x.toml"]])
def test_without_psycopg2(command: list[str], tmp_path: Path) -> None:
    """Missing, or without its libpq, it is named in one line with what to install."""
    broken = tmp_path / "psycopg2"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no libpq.so.5')")
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("gateway: psycopg2 cannot be used (no libpq.so.5): pip install")
