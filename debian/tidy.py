"""
Tidy an environment that dh_virtualenv made: nothing in it may name the folder it was built in.

    tidy.py BUILT INSTALLED

@arg BUILT: the environment's folder now.
@arg INSTALLED: the folder it will be in.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

built, installed = (Path(argument) for argument in sys.argv[1:])
(built / "bin").mkdir(exist_ok=True)
for script in (built / "bin").iterdir():
    if script.name in ("gateway", "twistd"):
        _, _, rest = script.read_text().partition("\n")
        script.write_text(f"#!{installed}/bin/python\n{rest}")
    elif not script.name.startswith("python"):
        # Commands of the libraries, and the activation of a shell.
        script.unlink()
settings = (built / "pyvenv.cfg").read_text().splitlines(keepends=True)
(built / "pyvenv.cfg").write_text("".join(s for s in settings if not s.startswith("command")))
for package in built.glob("lib/python3*/site-packages/*.dist-info"):
    # Where pip had it from: for our own package a folder of the machine that built it.
    (package / "direct_url.json").unlink(missing_ok=True)
for cache in [*built.rglob("__pycache__"), *built.rglob("dropin.cache")]:
    shutil.rmtree(cache) if cache.is_dir() else cache.unlink()
