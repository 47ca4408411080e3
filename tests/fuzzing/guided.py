"""
One target, guided by coverage: C{python -m tests.fuzzing.guided TARGET CORPUS [OPTION...]}.

The options are libFuzzer's. L{tests.fuzzing.__main__} starts it, since it never returns.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["gateway"]):
    from tests.fuzzing.targets import TARGETS


def main() -> None:
    _, name, *options = sys.argv
    atheris.Setup([sys.argv[0], *options], TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
