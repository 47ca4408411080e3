"""
gateway admin, status and top: the console from a shell.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from gateway.admin.page import WIDTH
from gateway.cli import main
from tests import forking
from tests.daemon.test_console import LISTENERS, REFUSE, ask, path_of
from tests.forking import BIN
from tests.support import PATIENCE, Gateway, tool, wait_until

Start = Callable[[str], Gateway]


@pytest.fixture
def gateway(start_with: Start) -> Gateway:
    """One with a few messages stored."""
    gateway = start_with(LISTENERS + REFUSE)
    peer = gateway.connect()
    peer.send(b"x\n" * 5)
    peer.read_lines(5)
    return gateway


def test_a_command_from_a_shell(gateway: Gateway) -> None:
    """Words are a command; exit status 0 done, 1 not carried out, 2 no gateway."""
    folder = str(gateway.cwd / "gateway-data")
    done = tool("admin", "show", "routes", "--json", "--data-dir", folder)
    assert done.returncode == 0 and not done.stderr
    assert [json.loads(line)["rows"] for line in done.stdout.splitlines()] == [5, 0]
    done = tool("admin", "--config", "gateway.toml", "SHOW", "POOL", cwd=gateway.cwd)
    assert done.returncode == 0 and done.stdout.splitlines()[0].startswith("pool ")
    done = tool("admin", "--socket", str(path_of(gateway)), "PAUSE", "message")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no route message; did you mean messages?\n"
    done = tool("admin", "--data-dir", "elsewhere", "SHOW", "POOL", cwd=gateway.cwd)
    assert done.returncode == 2 and "no gateway has its console there" in done.stderr


def test_where_the_console_is(
    start_with: Start, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """It is found as the gateway finds it: by the configuration, or in a short folder."""
    text = f'{LISTENERS}[admin]\nendpoint = "unix:a\\\\:b.sock"\n'
    gateway = start_with(text)
    assert path_of(gateway) == tmp_path / "a:b.sock"
    config = str(tmp_path / "gateway.toml")
    assert tool("status", "--config", config).returncode == 0
    # What only the service has is not needed.
    file = tmp_path / "gateway.toml"
    file.write_text(re.sub("dsn = .*", 'dsn_file = "credential:dsn"', file.read_text()))
    assert tool("status", "--config", config).returncode == 0
    gateway.terminate()
    start_with(f'{LISTENERS}[admin]\nendpoint = "off"\n')
    done = tool("status", "--config", config)
    assert done.returncode == 2 and "this gateway has no console" in done.stderr


def test_a_long_data_directory(
    start_with: Start, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """A path that is too long for a socket has one in a short folder, which is removed again."""
    start_with(LISTENERS + REFUSE).terminate()
    folder = tmp_path / ("long" * 25)
    gateway = start_gateway("--config", str(tmp_path / "gateway.toml"), "--data-dir", str(folder))
    path = path_of(gateway)
    assert path.parent != folder and path.parent.stat().st_mode & 0o777 == 0o700
    assert tool("status", "--data-dir", str(folder)).returncode == 0
    assert gateway.terminate() == 0
    assert not path.parent.exists()


def test_lines_of_standard_input(gateway: Gateway) -> None:
    """Where standard input is no terminal its lines are commands; one that fails is told."""
    done = forking.run(
        [str(BIN / "gateway"), "admin", "--socket", str(path_of(gateway))],
        input="SHOW VERSION\n\nFOO\nSHOW LANES\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "no command FOO; try SHOW HELP\n"
    assert done.stdout.startswith("version ") and "\nlane " in done.stdout


def test_a_prompt(gateway: Gateway, tmp_path: Path) -> None:
    """On a terminal there is a prompt that completes words, remembers lines, and ends with quit."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "TERM": "dumb"}
    command = ["admin", "--socket", str(path_of(gateway))]
    child = pexpect.spawn(
        str(BIN / "gateway"), command, timeout=PATIENCE, encoding="utf-8", env=environment
    )
    child.expect_exact("gateway> ")
    child.send("sho\tvers\t\r")
    child.expect_exact("1")
    child.expect_exact("gateway> ")
    child.send("SHOW NOTHING\r")
    child.expect_exact("nothing called NOTHING to show")
    child.expect_exact("gateway> ")

    def is_asked_again() -> bool:
        # What comes before the prompt reads is lost.
        child.sendintr()
        return child.expect_exact(["gateway> ", pexpect.TIMEOUT], 1) == 0

    wait_until(is_asked_again, "there is a prompt again")
    child.send("quit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    (history,) = home.rglob("admin_history")
    assert "SHOW VERSION" in history.read_text().upper()
    assert history.stat().st_mode & 0o077 == 0


def test_the_status(gateway: Gateway) -> None:
    """One page within 80 columns, or all of it as JSON; the exit status says whether it takes."""
    socket = ("--socket", str(path_of(gateway)))
    done = tool("status", *socket)
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert ": ready, storing; for" in lines[0] and max(map(len, lines)) <= WIDTH
    done = tool("status", "--json", *socket)
    assert json.loads(done.stdout)["routes"][0]["rows"] == 5
    ask(gateway, "PAUSE")
    done = tool("status", *socket)
    assert done.returncode == 1 and "taking nothing" in done.stdout.splitlines()[0]
    assert "route messages is paused by the operator" in done.stdout
    ask(gateway, "RESUME")
    gateway.terminate()
    assert tool("status", *socket).returncode == 2


def test_a_live_page(gateway: Gateway) -> None:
    """top shows the page in 80 columns again and again, outlives the gateway, and q ends it."""
    child = pexpect.spawn(
        str(BIN / "gateway"),
        ["top", "--socket", str(path_of(gateway)), "--interval", "0.1"],
        timeout=PATIENCE,
        encoding="utf-8",
        dimensions=(24, 80),
        env={**os.environ, "TERM": "xterm"},
    )
    child.expect_exact("ready, storing")
    child.expect_exact("messages")
    ask(gateway, "PAUSE others")
    child.expect_exact("route-paused others")
    gateway.terminate()
    child.expect_exact("looking again")
    child.send("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_top_needs_a_terminal(gateway: Gateway) -> None:
    """Without one it says what to use instead."""
    done = tool("top", "--socket", str(path_of(gateway)))
    assert done.returncode == 2 and "gateway status" in done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["adm"], "admin"),
        (["admin", "SHO"], "SHOW"),
        (["admin", "show", "pe"], "PEERS"),
        (["admin", "SHOW", "PEERS", "so"], "sort="),
        (["admin", "set", "log", "wa"], "warn"),
    ],
)
def test_completion(words: list[str], offered: str) -> None:
    """The shell completes what follows, whatever the case."""
    from click.shell_completion import BashComplete

    complete = BashComplete(main, {}, "gateway", "_GATEWAY_COMPLETE")
    found = [item.value for item in complete.get_completions(words[:-1], words[-1])]
    assert offered in found


def test_the_level_of_the_log(gateway: Gateway) -> None:
    """SET LOG changes what is logged at once, until a reload."""
    peer = gateway.connect()
    done = tool("admin", "--socket", str(path_of(gateway)), "SET", "LOG", "error")
    assert done.returncode == 0 and "from error on" in done.stdout
    peer.send(b"\xff\n")
    assert peer.read_lines(1)[0].startswith(b"-REJ")
    assert "refused" not in gateway.log
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    gateway.connect().ask(b"\xff\n" * 2)
    assert gateway.terminate() == 0
    assert "refused: DATA" in gateway.log
