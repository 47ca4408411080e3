"""
The long form of fuzzing parsers: each in a process of its own, for so long.

    python -m tests.fuzzing                             # ten minutes each
    python -m tests.fuzzing --seconds 60 json syslog
    python -m tests.fuzzing --corpus DIR                # go on where the last run ended

Guided by coverage where atheris is installed (C{pip install 'txgateway[fuzz]'}), by
hypothesis alone where it is not. A target fails where its invariant does not hold, where one
input takes longer than C{SLOW}, or where memory grows beyond C{MOST}. Exits with 1 where
any did; the input is then in the folder that is named.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzzing.targets import TARGETS

SLOW: Final = 10
"""Seconds for one input, which has a few kilobytes at most."""

MOST: Final = 1024
"""MiB of memory, that of the fuzzer itself included."""

ROOT: Final = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--corpus", type=Path, help="a folder to keep what was found to matter")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    guided = importlib.util.find_spec("atheris") is not None
    print("guided by coverage" if guided else "by hypothesis: atheris is not installed")
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="gateway-fuzzing-"))
    failed = 0
    for name in options.targets or TARGETS:
        failed += not run(name, guided, options.seconds, corpus.absolute())
    return 1 if failed else 0


def run(name: str, guided: bool, seconds: int, corpus: Path) -> bool:
    """
    One target.

    @return: whether all was as it should be.
    """
    folder, found = corpus / name, corpus / f"{name}-found"
    for path in (folder, found):
        path.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    command = [sys.executable, "-m", "tests.fuzzing.guided", name, str(folder)]
    command += [f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MOST}"]
    command += [f"-artifact_prefix={found}/", "-print_final_stats=1", "-verbosity=0"]
    if not guided:
        command = [sys.executable, "-m", "tests.fuzzing.guessed", name, str(seconds)]
    log = found / "log"
    with log.open("wb") as output:
        others = os.environ.get("PYTHONPATH", "")
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{others}"},
            check=False,
        )
    said = log.read_text("utf-8", "replace")
    figures = {
        words[0].removeprefix("stat::").rstrip(":"): words[-1]
        for line in said.splitlines()
        if line.startswith("stat::") and (words := line.split())
    }
    inputs, memory = (int(figures.get(key, 0)) for key in (_INPUTS, _MEMORY))
    good = done.returncode == 0 and memory <= MOST
    print(
        f"{name:<18} {inputs:>12,} inputs, {memory:>4} MiB, {'good' if good else 'BAD'}", flush=True
    )
    if not good:
        print(said[-6000:])
        print(f"see {found}")
    return good


_INPUTS: Final = "number_of_executed_units"
_MEMORY: Final = "peak_rss_mb"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
