"""
etc/gateway.service: a unit that gives the gateway no more than it needs.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from gateway.daemon.options import Options
from tests.forking import BIN

ROOT = Path(__file__).parents[2]

UNIT = ROOT / "etc" / "gateway.service"

DROPPED = (
    *("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictSUIDSGID"),
    *("RestrictNamespaces", "RestrictRealtime", "LockPersonality", "ProtectClock"),
    *("ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
    "ProtectKernelTunables",
)


def keys() -> dict[str, str]:
    """Of the section [Service]."""
    parser = RawConfigParser(strict=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_what_the_unit_takes_away() -> None:
    """Privileges, core files, and every place to write but its own state and sockets."""
    found = keys()
    assert found["User"] == "gateway"
    assert [key for key in DROPPED if found.get(key) != "yes"] == []
    assert found["ProtectSystem"] == "strict" and "ReadWritePaths" not in found
    assert (found["StateDirectory"], found["StateDirectoryMode"]) == ("gateway", "0700")
    assert found["RuntimeDirectory"] == "gateway"
    assert found["LimitCORE"] == "0" and found["UMask"] == "0077"
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ""


def test_what_the_unit_runs() -> None:
    """The daemon in the foreground, with its data where it may write; SIGHUP reloads."""
    found = keys()
    twistd, *arguments = shlex.split(found["ExecStart"])
    assert Path(twistd).name == "twistd"
    at = arguments.index("gateway")
    assert arguments[:at] == ["--nodaemon", "--pidfile="]
    options = Options()
    given = dict(zip(*[iter(arguments[at + 1 :])] * 2, strict=True))
    assert {name.removeprefix("--") for name in given} <= set(options)
    assert given["--data-dir"] == f"/var/lib/{found['StateDirectory']}"
    assert found["ExecReload"] == "/bin/kill -HUP $MAINPID"
    page = (ROOT / "docs" / "security.md").read_text()
    assert "etc/gateway.service" in page and given["--config"] in page


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_takes_it(tmp_path: Path) -> None:
    """No key is misspelt or unknown, and what is left open is little."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/gateway/bin", str(BIN)))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "") and "Unknown" not in done.stderr, done.stderr
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"exposure level for gateway\.service: ([\d.]+)", done.stdout)
    assert level is not None and float(level[1]) < 2.5, done.stdout + done.stderr
