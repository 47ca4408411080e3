"""
Options that several commands have: the configuration, the database, the data directory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.daemon.options import DATA_DIR

config_option = click.option(
    "--config", "-c", type=click.Path(path_type=Path), help="Configuration file."
)

database_option = click.option(
    "--database", help="libpq URI or conninfo, or 'embedded'; beats the file."
)


def data_dir_option(holds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """
    Make the option C{--data-dir}.

    @param holds: what of the directory the command uses, for its help.
    """
    return click.option(
        "--data-dir",
        default=DATA_DIR,
        show_default=True,
        type=click.Path(path_type=Path),
        help=f"Directory of {holds}.",
    )
