"""
Write a manual page for C{gateway} and each of its commands, by click-man.

    manuals.py FOLDER
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import click
from click_man.core import write_man_pages

from gateway.cli import main

# click-man looks at the commands that are there, and gateway imports them when they are asked for.
for name in main.list_commands(click.Context(main)):
    command = main.get_command(click.Context(main), name)
    if command is not None:
        main.add_command(command, name)
write_man_pages("gateway", main, version=version("txgateway"), target_dir=sys.argv[1])
