"""
Socket of the service manager.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.system.notify_socket import NotifySocket


@pytest.mark.parametrize("is_abstract", [False, True])
def test_what_is_told_arrives(tmp_path: Path, is_abstract: bool) -> None:
    """One message for each call, to a path or an abstract name; the environment names the socket no
    longer."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if is_abstract else name)
        manager.settimeout(10)
        environment = {
            "NOTIFY_SOCKET": f"@{name}" if is_abstract else name,
            "WATCHDOG_USEC": "3000000",
            "WATCHDOG_PID": "17",
            "PATH": "/bin",
        }
        found = NotifySocket.of_environment(environment)
        assert found is not None and environment == {"PATH": "/bin"}
        assert (found.watchdog, found.watchdog_pid) == (3.0, 17)
        found.send("READY=1", "STATUS=ready: ü")
        assert manager.recv(1000) == "READY=1\nSTATUS=ready: ü".encode()
        found.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "notify"])
def test_no_service_of_systemds(address: str) -> None:
    """Without a socket, or with one of a kind that is not known, there is nothing to tell."""
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "x"}
    assert NotifySocket.of_environment(environment) is None and not environment
    assert NotifySocket.of_environment({}) is None


def test_a_manager_that_is_gone(tmp_path: Path) -> None:
    """What cannot be told is no error; neither is a watchdog that is none."""
    found = NotifySocket.of_environment(
        {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "-1"}
    )
    assert found is not None and (found.watchdog, found.watchdog_pid) == (None, None)
    found.send("READY=1")
    found.close()
