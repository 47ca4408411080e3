"""
Place of the console's socket, for the gateway and for those who look for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from gateway.config.operator import OFF
from gateway.system.endpoint_arguments import split_endpoint
from gateway.system.unix_socket import MAX_PATH, short_folder

NAME: Final = "admin.sock"


def default_path(data_dir: Path) -> Path:
    """
    Return the path where the configuration names none: in the data directory, or in a folder of its
    own where that path is too long for a socket.

    @raise OSError: it would be too long, and there is no data directory yet.
    """
    path = data_dir / NAME
    return path if len(os.fsencode(path)) <= MAX_PATH else short_folder(data_dir) / NAME


def path_of(endpoint: str | None, data_dir: Path) -> Path | None:
    """
    Return the path of a console.

    @param endpoint: as configured, with an absolute path.
    @return: C{None} where only systemd knows it, or there is none.
    @raise OSError: as for L{default_path}.
    """
    if endpoint is None:
        return default_path(data_dir)
    if endpoint == OFF:
        return None
    arguments = split_endpoint(endpoint)
    if arguments is None or arguments.kind != "unix":
        return None
    path = arguments.values[0] if arguments.values else dict(arguments.named).get("address")
    return None if not path else Path(path)


def names_mode(endpoint: str) -> bool:
    """Say whether an endpoint has the mode of its file."""
    arguments = split_endpoint(endpoint)
    return arguments is not None and "mode" in dict(arguments.named)
