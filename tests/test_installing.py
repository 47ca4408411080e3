"""
Programs of others, where they are missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installing import DEBIAN, PLUGINS, SERVERS, Installer


@pytest.mark.parametrize("name", sorted(DEBIAN))
def test_what_cannot_be_installed_is_named(name: str, tmp_path: Path) -> None:
    """Without the rights to install a program its test fails, and says what to do."""
    installer = Installer(tmp_path, path=str(tmp_path), is_root=False)
    with pytest.raises(
        pytest.fail.Exception, match=f"{name} is missing; install it with: apt-get install"
    ):
        installer.program(name)


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_a_plugin_that_cannot_be_unpacked_is_named(name: str, tmp_path: Path) -> None:
    """Without the rights to unpack a plugin its test fails, and says what to do."""
    (tmp_path / "rsyslogd").touch(mode=0o755)
    installer = Installer(tmp_path, path=str(tmp_path), is_root=False)
    with pytest.raises(pytest.fail.Exception, match=f"{name} of rsyslog is missing; it is in"):
        installer.plugins(name)


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_server_that_cannot_be_unpacked_is_named(name: str, tmp_path: Path) -> None:
    """Without the rights to unpack a server its test fails, and says what to do."""
    installer = Installer(tmp_path, path=str(tmp_path), is_root=False)
    with pytest.raises(pytest.fail.Exception, match=f"{name} is missing; it is in the Debian"):
        installer.server(name)
