"""
Parsers against bytes that nobody sensible would send.

L{tests.fuzzing.targets} says for each parser what must hold whatever it is given;
C{python -m tests.fuzzing} looks for hours for what breaks that, C{test_targets} for a second.
L{tests.fuzzing.live} does the like to a whole gateway.
"""
