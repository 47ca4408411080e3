"""
ABNF (RFC 5234, with the strings of RFC 7405), read and put to use.

Strategy: a grammar is read into nodes of six kinds, and each kind knows three things:
the regular expression that matches it, the hypothesis strategy that makes it, and how a
C{random.Random} makes one (for hours of fuzzing, where hypothesis would be in the way).
All of it is about bytes: a terminal is one byte.

So what C{docs/protocol.md} says is what the tests generate and what they hold answers
against; a test that wants other names or values of its own extends the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Protocol

from hypothesis import strategies as st

CORE: Final = """
ALPHA  = %x41-5A / %x61-7A
CHAR   = %x01-7F
CR     = %x0D
CRLF   = CR LF
DIGIT  = %x30-39
DQUOTE = %x22
HEXDIG = DIGIT / "A" / "B" / "C" / "D" / "E" / "F"
HTAB   = %x09
LF     = %x0A
OCTET  = %x00-FF
SP     = %x20
VCHAR  = %x21-7E
"""
"""RFC 5234, appendix B.1."""

JSON: Final = """
json-object  = "{" [ json-member *( "," json-member ) ] "}"
json-member  = json-string ":" json-value
json-array   = "[" [ json-value *( "," json-value ) ] "]"
json-value   = %s"null" / %s"false" / %s"true" / json-number / json-string / json-array
             / json-object
json-number  = [ "-" ] ( "0" / ( %x31-39 *8DIGIT ) ) [ "." 1*6DIGIT ] [ "e" [ "-" / "+" ] DIGIT ]
json-string  = DQUOTE *json-char DQUOTE
json-char    = %x20-21 / %x23-5B / %x5D-7E / %xC3 %x80-BF / %xF0.9F.98.80
             / "\\" ( DQUOTE / "\\" / "/" / %s"n" / %s"t" ) / "\\" %s"u" 3HEXDIG "7"
"""
"""JSON of RFC 8259: every kind of value, but not every character, and no needless blanks."""

_TOKEN: Final = re.compile(
    r"""
      (?P<blank> \s+ )
    | (?P<repeat> \d*\*\d* | \d+ )
    | (?P<name> [A-Za-z][A-Za-z0-9-]* )
    | (?P<text> (?:%[si])? "[\x20-\x21\x23-\x7E]*" )
    | (?P<number> %x[0-9A-Fa-f]+ (?: -[0-9A-Fa-f]+ | (?:\.[0-9A-Fa-f]+)+ )? )
    | (?P<prose> <[\x20-\x3D\x3F-\x7E]*> )
    | (?P<mark> [()\[\]/] )
    """,
    re.VERBOSE,
)

_COMMENT: Final = re.compile(r"""("[^"\n]*"|<[^>\n]*>)|;[^\n]*""")
"""A comment, or (kept) what only looks as if one began in it."""

_MANY: Final = 6
"""How many more than it must an unbounded repetition has, on average."""

_DEEP: Final = 8
"""Rules within rules after which the shortest way out is taken."""


class Node(Protocol):
    """
    A part of a rule.
    """

    def pattern(self, grammar: Grammar) -> str:
        """Regular expression, to be encoded as Latin 1."""

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        """What hypothesis draws from."""

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        """One of those that it matches."""


@dataclass(frozen=True, slots=True)
class Range:
    """One byte out of some that follow each other."""

    first: int
    last: int

    def pattern(self, grammar: Grammar) -> str:
        return f"[\\x{self.first:02x}-\\x{self.last:02x}]"

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        return st.integers(self.first, self.last).map(lambda byte: bytes([byte]))

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        return bytes([chance.randint(self.first, self.last)])


@dataclass(frozen=True, slots=True)
class Text:
    """A string, of which the case may count or not."""

    text: str
    exact: bool

    def pattern(self, grammar: Grammar) -> str:
        return re.escape(self.text) if self.exact else f"(?i:{re.escape(self.text)})"

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        if self.exact or self.text.upper() == self.text.lower():
            return st.just(self.text.encode())
        return st.tuples(*(st.sampled_from([c.upper(), c.lower()]) for c in self.text)).map(
            lambda letters: "".join(letters).encode()
        )

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        if self.exact or chance.random() < 0.7:
            return self.text.encode()
        return "".join(chance.choice([c.upper(), c.lower()]) for c in self.text).encode()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's name, which stands for the rule."""

    name: str

    def pattern(self, grammar: Grammar) -> str:
        return grammar.pattern(self.name)

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        return st.deferred(lambda: grammar.strategy(self.name))

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        return grammar.rule(self.name).sample(grammar, chance, depth + 1)


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    parts: tuple[Node, ...]

    def pattern(self, grammar: Grammar) -> str:
        return "".join(part.pattern(grammar) for part in self.parts)

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        return st.tuples(*(part.strategy(grammar) for part in self.parts)).map(b"".join)

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        return b"".join([part.sample(grammar, chance, depth) for part in self.parts])


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several, the first of which must not lead to itself."""

    parts: tuple[Node, ...]

    def pattern(self, grammar: Grammar) -> str:
        return f"(?:{'|'.join(part.pattern(grammar) for part in self.parts)})"

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        return st.one_of([part.strategy(grammar) for part in self.parts])

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        part = self.parts[0] if depth > _DEEP else chance.choice(self.parts)
        return part.sample(grammar, chance, depth)


@dataclass(frozen=True, slots=True)
class Repeat:
    """
    The same again and again.

    @ivar most: C{None} for no limit.
    """

    part: Node
    least: int
    most: int | None

    def pattern(self, grammar: Grammar) -> str:
        most = "" if self.most is None else self.most
        return f"(?:{self.part.pattern(grammar)}){{{self.least},{most}}}"

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        if self.part in (Rule("OCTET"), Range(0, 255)):
            return st.binary(min_size=self.least, max_size=self.most)
        part = self.part.strategy(grammar)
        return st.lists(part, min_size=self.least, max_size=self.most).map(b"".join)

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        more = 0 if depth > _DEEP else int(min(chance.expovariate(1 / _MANY), 99))
        if self.most is not None:
            # The limits are where faults are.
            more = self.most - self.least if chance.random() < 0.05 else more
            more = min(more, self.most - self.least)
        return b"".join(
            [self.part.sample(grammar, chance, depth) for _ in range(self.least + more)]
        )


@dataclass(frozen=True, slots=True)
class Prose:
    """What a grammar says in words; whoever uses such a rule has to give it anew."""

    words: str

    def _refuse(self) -> ValueError:
        return ValueError(f"extend the grammar: it says <{self.words}> in words only")

    def pattern(self, grammar: Grammar) -> str:
        raise self._refuse()

    def strategy(self, grammar: Grammar) -> st.SearchStrategy[bytes]:
        raise self._refuse()

    def sample(self, grammar: Grammar, chance: Random, depth: int) -> bytes:
        raise self._refuse()


class Grammar:
    """
    The rules of an ABNF text, and the core rules.
    """

    def __init__(self, text: str, before: Mapping[str, Node] | None = None) -> None:
        """
        @param before: rules that this text may use and replace.
        """
        self._rules = dict(_read(CORE) if before is None else before)
        own: dict[str, Node] = {}
        for name, node in _read(text):
            if name in own:
                raise ValueError(f"rule {name} is there twice")
            own[name] = node
        self._rules |= own
        self._strategies: dict[str, st.SearchStrategy[bytes]] = {}
        self._open: set[str] = set()

    @classmethod
    def of(cls, document: Path) -> Grammar:
        """The one block fenced as C{abnf} in a Markdown file."""
        (block,) = re.findall(r"^```abnf\n(.*?)^```", document.read_text(), re.M | re.S)
        return cls(block)

    def extended(self, text: str) -> Grammar:
        """With more rules, or with others of the same name."""
        return Grammar(text, self._rules)

    def rule(self, name: str) -> Node:
        try:
            return self._rules[name]
        except KeyError:
            raise ValueError(f"no rule {name}") from None

    def pattern(self, name: str) -> str:
        """
        @raise ValueError: the rule leads to itself, so no regular expression matches it.
        """
        if name in self._open:
            raise ValueError(f"rule {name} leads to itself")
        self._open.add(name)
        try:
            # A rule within another binds together what it holds.
            return f"(?:{self.rule(name).pattern(self)})"
        finally:
            self._open.discard(name)

    def compiled(self, name: str) -> re.Pattern[bytes]:
        """To be used with C{fullmatch}."""
        return re.compile(self.pattern(name).encode("latin-1"))

    def strategy(self, name: str) -> st.SearchStrategy[bytes]:
        """All that a rule matches."""
        if name not in self._strategies:
            self._strategies[name] = self.rule(name).strategy(self)
        return self._strategies[name]

    def sample(self, name: str, chance: Random) -> bytes:
        """One of those that a rule matches."""
        return self.rule(name).sample(self, chance, 0)

    def missing(self) -> set[str]:
        """Rules that are used and not there."""
        return self._used() - self._rules.keys()

    def unused(self) -> set[str]:
        """Rules that no other one uses, those of the core left out."""
        return self._rules.keys() - self._used() - dict(_read(CORE)).keys()

    def _used(self) -> set[str]:
        return {name for node in self._rules.values() for name in _used(node)}


def _used(node: Node) -> Iterator[str]:
    match node:
        case Rule(name):
            yield name
        case Sequence(parts) | Choice(parts):
            for part in parts:
                yield from _used(part)
        case Repeat(part):
            yield from _used(part)


def _read(text: str) -> Iterator[tuple[str, Node]]:
    """
    @return: each rule's name, and what it stands for.
    """
    text = _COMMENT.sub(r"\1", text)
    for rule in filter(str.strip, re.split(r"^(?=\S)", text, flags=re.MULTILINE)):
        name, equals, rest = rule.partition("=")
        if not equals:
            raise ValueError(f"no rule: {rule!r}")
        yield name.strip(), _Reader(rest).whole()


class _Reader:
    """
    One rule, read from left to right.
    """

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:
                raise ValueError(f"not ABNF: {text[place:].strip()!r}")
            if found.lastgroup != "blank":
                self._tokens.append((str(found.lastgroup), found[0]))
            place = found.end()
        self._place = 0

    def whole(self) -> Node:
        node = self._choice()
        if self._place < len(self._tokens):
            raise ValueError(f"{self._tokens[self._place][1]!r} is out of place")
        return node

    def _ahead(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._ahead()
        self._place += 1
        return token

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._ahead() == ("mark", "/"):
            self._take()
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts = []
        while self._ahead()[0] != "end" and self._ahead()[1] not in ("/", ")", "]"):
            parts.append(self._repeat())
        if not parts:
            raise ValueError("nothing stands where something must")
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeat(self) -> Node:
        if self._ahead()[0] != "repeat":
            return self._element()
        least, star, most = self._take()[1].partition("*")
        if not star:
            most = least
        return Repeat(self._element(), int(least or 0), int(most) if most else None)

    def _element(self) -> Node:
        kind, token = self._take()
        match kind:
            case "name":
                return Rule(token)
            case "text":
                return Text(token[token.index('"') + 1 : -1], token.startswith("%s"))
            case "number":
                return _terminal(token[2:])
            case "prose":
                return Prose(token[1:-1])
            case "mark" if token == "(":
                return self._closed(")")
            case "mark" if token == "[":
                return Repeat(self._closed("]"), 0, 1)
        raise ValueError(f"{token!r} is out of place")

    def _closed(self, mark: str) -> Node:
        node = self._choice()
        if self._take() != ("mark", mark):
            raise ValueError(f"{mark!r} is missing")
        return node


def _terminal(digits: str) -> Node:
    """The digits of C{%x41}, C{%x41-5A} or C{%x41.42}."""
    if "-" in digits:
        first, _, last = digits.partition("-")
        return Range(int(first, 16), int(last, 16))
    parts = tuple(Range(int(byte, 16), int(byte, 16)) for byte in digits.split("."))
    return parts[0] if len(parts) == 1 else Sequence(parts)
