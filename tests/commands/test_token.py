"""
C{gateway token}, as a process.
"""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from gateway.access.tokens import read_tokens
from gateway.config.units import DURATION
from tests.support import tool


def token(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = tool("token", *arguments, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def added(cwd: Path, identity: str, *options: str) -> str:
    """A new token, as it is said."""
    done = token("add", identity, "--file", "tokens", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    (said,) = done.stdout.splitlines()
    assert said not in done.stderr and "SIGHUP" in done.stderr
    return said


def test_add_list_revoke(tmp_path: Path) -> None:
    """A token is printed once, its hash is kept, and it goes by its ID or with all of its own."""
    said = [added(tmp_path, name) for name in ("till-3", "till-3", "till-4")]
    path = tmp_path / "tokens"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = read_tokens(path.read_text(), "tokens")
    for each, identity in zip(said, ("till-3", "till-3", "till-4"), strict=True):
        name, _, secret = each.partition(".")
        assert kept[name].identity == identity and kept[name].has_secret(secret.encode())
        assert secret not in path.read_text()
    done = token("list", "--file", "tokens", cwd=tmp_path)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["till-3", "till-3", "till-4"]
    path.write_text(path.read_text() + "# a comment\n")
    done = token("revoke", said[0].partition(".")[0], "--file", "tokens", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("revoked")) == (0, 1)
    done = token("revoke", "till-4", "--file", "tokens", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("revoked")) == (0, 1)
    assert list(read_tokens(path.read_text(), "tokens")) == [said[1].partition(".")[0]]
    assert path.read_text().endswith("# a comment\n")


@pytest.mark.parametrize("unit", DURATION.units)
def test_units_of_a_lifetime(tmp_path: Path, unit: str) -> None:
    """A token lives for a duration in any unit that the configuration knows, and in no other."""
    number = max(1, round(60 / DURATION.units[unit]))
    added(tmp_path, "a", "--expires", f"{number}{unit}")
    (kept,) = read_tokens((tmp_path / "tokens").read_text(), "tokens").values()
    assert kept.expires is not None
    lives = (kept.expires - kept.created).total_seconds()
    assert lives == pytest.approx(number * float(DURATION.units[unit]), abs=1)


def test_list_shows_who_and_until_when(tmp_path: Path) -> None:
    """As lines for people or JSON for programs; never a hash."""
    added(tmp_path, "a", "--expires", "90d")
    added(tmp_path, "b")
    path = tmp_path / "tokens"
    old = path.read_text().splitlines()[-1].replace(" - ", " 2020-01-01T00:00:00Z ")
    path.write_text(path.read_text() + old.replace(old[:4], "old-", 1) + "\n")
    done = token("list", "--file", "tokens", cwd=tmp_path)
    assert "$argon2" not in done.stdout
    first, second, third = done.stdout.splitlines()
    assert "  expires 20" in first and second.endswith("  never expires")
    assert third.endswith("  expired 2020-01-01T00:00:00+00:00")
    done = token("list", "--json", "--file", "tokens", cwd=tmp_path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["identity"] for each in found] == ["a", "b", "b"]
    assert [each["good"] for each in found] == [True, True, False]
    assert found[1]["expires"] is None and found[0]["expires"] is not None
    assert "$argon2" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("add", "a b", "--file", "tokens"), 2, "has a space"),
        (("add", "a*", "--file", "tokens"), 2, "has an asterisk"),
        (("add", "", "--file", "tokens"), 2, "is empty"),
        (("add", "a", "--file", "tokens", "--expires", "soon"), 2, "90d is ninety days"),
        (("add", "a", "--file", "tokens", "--expires", "90"), 2, "(s, ms, us, m, min, h, d, w)"),
        (("add", "a", "--file", "tokens", "--expires", "1M"), 2, "90d is ninety days"),
        (("add", "a", "--file", "tokens", "--expires", "0d"), 2, "less than a second"),
        (("add", "a", "--file", "tokens", "--expires", "999ms"), 2, "less than a second"),
        (("add", "a", "--file", "tokens", "--expires", "9999999d"), 2, "beyond the year 9999"),
        (("add", "a", "--file", "tokens", "--expires", f"{10**14}d"), 2, "beyond the year 9999"),
        (("add", "a"), 2, "one of --file and --config"),
        (("add", "a", "--file", "tokens", "--config", "x"), 2, "one of --file and --config"),
        (("add", "a", "--file", "none/tokens"), 1, "none/tokens: cannot be"),
        (("list", "--file", "tokens"), 1, "tokens: is not there; 'gateway token add IDENTITY"),
        (("revoke", "a", "--file", "tokens"), 1, "tokens: is not there"),
        (("revoke", "till3", "--file", "some"), 1, "no token 'till3'; did you mean 'till-3'?"),
        (("add", "a", "--file", "open"), 1, "open: has mode 0644"),
        (("list", "--file", "open"), 1, "run: chmod 600 open"),
        (("revoke", "a", "--file", "open"), 1, "open: has mode 0644"),
        (("add", "a", "--file", "faulty"), 1, "faulty:1: has 1 words"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """One line says what is wrong and what to do, and nothing is written."""
    for name, mode in (("open", 0o644), ("faulty", 0o600)):
        (tmp_path / name).write_text("what\n")
        (tmp_path / name).chmod(mode)
    if "some" in arguments:
        added(tmp_path, "till-3")
        (tmp_path / "tokens").rename(tmp_path / "some")
    done = token(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert not (tmp_path / "tokens").exists()
    assert (tmp_path / "faulty").read_text() == "what\n"
