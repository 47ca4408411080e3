"""
The command line as C{ps} shows it.
"""

from __future__ import annotations

from gateway.postgres.connect.dsn import has_password, public_dsn


def hide(dsn: str) -> bool:
    """
    Show a connection string of the command line without its password.

    @return: whether there was one to hide.
    """
    if not has_password(dsn):
        return False
    # Only here: it takes over the memory of arguments and environment when it is imported.
    from setproctitle import getproctitle, setproctitle

    setproctitle(getproctitle().replace(dsn, public_dsn(dsn)))
    return True
