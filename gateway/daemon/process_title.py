"""
Change the command line that C{ps} shows.
"""

from __future__ import annotations

from gateway.postgres.connect.dsn import has_password, public_dsn


def hide(dsn: str) -> bool:
    """
    Hide the password of a connection string in the process title; return whether it has one.
    """
    if not has_password(dsn):
        return False
    # Only here: it takes over the memory of arguments and environment when it is imported.
    from setproctitle import getproctitle, setproctitle

    setproctitle(getproctitle().replace(dsn, public_dsn(dsn)))
    return True
