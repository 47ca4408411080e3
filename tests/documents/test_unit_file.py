"""
etc/systemd: units that give the gateway no more than it needs.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from configparser import RawConfigParser
from pathlib import Path

from gateway.config.load import Limits
from gateway.daemon.options import Options
from gateway.system.endpoint_text import text_fault
from gateway.system.listening_reactor import BACKLOG
from tests.forking import BIN
from tests.installing import Installer

ROOT = Path(__file__).parents[2]

FOLDER = ROOT / "etc" / "systemd"

UNIT, INSTANCE, SOCKET = (FOLDER / f"gateway{end}" for end in (".service", "@.service", ".socket"))

DROPPED = (
    *("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictSUIDSGID"),
    *("RestrictNamespaces", "RestrictRealtime", "LockPersonality", "ProtectClock"),
    *("ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
    "ProtectKernelTunables",
)


def keys(unit: Path = UNIT, section: str = "Service") -> dict[str, str]:
    """Of a section of a unit."""
    parser = RawConfigParser(strict=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(unit)
    return dict(parser[section])


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
    assert "etc/systemd/gateway.service" in page and given["--config"] in page


def test_what_systemd_is_told() -> None:
    """The service is ready when the gateway says so, and shows that it lives; a stop has more time
    than its answers may take."""
    found = keys()
    assert (found["Type"], found["NotifyAccess"]) == ("notify", "main")
    assert float(found["WatchdogSec"]) >= 10
    assert float(found["TimeoutStopSec"]) > Limits().drain_timeout


def test_one_of_several() -> None:
    """An instance has a configuration and folders of its own; all else is as in the other unit."""
    one, instance = keys(), keys(INSTANCE)
    differing = {key for key in one if one[key] != instance.get(key)}
    assert set(one) == set(instance)
    assert differing == {"ExecStart", "StateDirectory", "RuntimeDirectory", "WorkingDirectory"}
    assert all(instance[key].replace("/%i", "") == one[key] for key in differing - {"ExecStart"})
    start = one["ExecStart"].replace("gateway.toml", "%i.toml")
    assert instance["ExecStart"] == f"{start}/%i"


def test_ports_that_systemd_holds() -> None:
    """The endpoint in the socket's comment is one; the queue is as long as the gateway's own."""
    endpoint = re.search(r'(?m)^#   endpoint = "(.*)"$', SOCKET.read_text())
    assert endpoint is not None and text_fault(endpoint[1], listening=True) is None
    assert int(keys(SOCKET, "Socket")["Backlog"]) == BACKLOG


def analyze(installer: Installer, *arguments: str | Path) -> str:
    """What systemd-analyze says of what is right."""
    done = subprocess.run(
        [installer.program("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Unknown" not in done.stderr, done.stdout + done.stderr
    return done.stdout


def test_systemd_takes_them(tmp_path: Path, installer: Installer) -> None:
    """No key is misspelt or unknown, and what is left open is little, as the documentation says."""
    for path in (UNIT, INSTANCE, SOCKET):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/gateway/bin", str(BIN)))
    page = (ROOT / "docs" / "security.md").read_text()
    for name in (UNIT.name, "gateway@.service"):
        shown = name.replace("@", "@one")
        (tmp_path / name).rename(tmp_path / shown)
        assert analyze(installer, "verify", tmp_path / shown) == ""
        said = analyze(installer, "security", "--offline=true", "--no-pager", tmp_path / shown)
        level = re.search(r"exposure level for gateway\S*: ([\d.]+)", said)
        assert level is not None and float(level[1]) <= 2.5, said
        assert f"(`systemd-analyze security` says {level[1]})" in page
    assert analyze(installer, "verify", tmp_path / SOCKET.name) == ""


def test_its_user(tmp_path: Path, installer: Installer) -> None:
    """systemd-sysusers makes the user and group that the units name."""
    (tmp_path / "etc").mkdir()
    file = FOLDER / "sysusers.d" / "gateway.conf"
    subprocess.run(
        [installer.program("systemd-sysusers"), f"--root={tmp_path}", file], check=True, timeout=60
    )
    user = (tmp_path / "etc" / "passwd").read_text()
    assert re.fullmatch(
        r"gateway:[^:]*:\d+:\d+:[^:]+:/var/lib/gateway:/usr/sbin/nologin\n", user
    ), user
    assert (tmp_path / "etc" / "group").read_text().startswith("gateway:")


def test_its_folders() -> None:
    """The configuration is for the gateway to read, secrets are root's alone."""
    lines = (FOLDER / "tmpfiles.d" / "gateway.conf").read_text().splitlines()
    made = [line.split() for line in lines if not line.startswith("#")]
    assert made == [
        ["d", "/etc/gateway", "0750", "root", "gateway", "-"],
        ["d", "/etc/gateway/secret", "0700", "root", "root", "-"],
    ]
