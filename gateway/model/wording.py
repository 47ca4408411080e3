"""
Texts of answers: everything that peers are told in words, in one place.

Who reviews the gateway's voice reads this. Not here is what says where a message does not follow
its format (each of C{gateway.formats} says that of its own grammar), what PostgreSQL says of a
row, and HELP.

Programs match on the words before the text, never on the text (C{docs/protocol.md}).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gateway.model.outcome import RETRY_AFTER, Code, Outcome, Word, goodbye, refused, try_later

# The connection.

DENIED_ADDRESS: Final = goodbye(Code.DENIED, "connections from your address are not allowed here")
NO_PROXY: Final = goodbye(Code.DENIED, "connections come through a proxy here")
STOPPING: Final = goodbye(Code.DRAIN, "the gateway stops; what has no answer is not stored")
ENDED_BY_OPERATOR: Final = goodbye(Code.DRAIN, "disconnected by the operator")
LISTENER_CLOSES: Final = goodbye(
    Code.DRAIN, "this listener is closed or changed; what has no answer is not stored"
)
TOO_MUCH_KEPT: Final = goodbye(
    Code.RATE, "the gateway holds too much for its peers, and most for this one"
)
PUSHES_NOT_TAKEN: Final = goodbye(Code.RATE, "does not take its pushes")
TOO_LONG: Final = refused(Code.TOOBIG, "longer than max_frame of this listener")


def too_many(what: str) -> Outcome:
    """Refuse a connection beyond a limit."""
    return goodbye(Code.BUSY, f"too many {what}; try again later")


def over_rate(seconds: int) -> Outcome:
    """Refuse a message beyond a rate."""
    return try_later(Code.RATE, "more than this listener takes from one peer", seconds)


def wrong_listener(listener: str, dialect: str, framing: str, spoken: str) -> Outcome:
    """
    Send a client of commands away.

    @param framing: the listener's; C{spoken}: the client's.
    """
    problem = (
        f"it does not understand framing {spoken}"
        if dialect == "command"
        else "each frame is a message for it, no frame a command"
    )
    text = f"this is listener {listener} (dialect {dialect}, framing {framing})"
    return goodbye(Code.FORMAT, f"{text}: {problem}")


BEHIND_REFUSED: Final = try_later(
    Code.GAP, "a message before it was not stored, so this one is not either"
)
NOT_KNOWN_STORED: Final = try_later(Code.DOWN, "whether it is stored is not known yet", RETRY_AFTER)

UNIT_NOT_SPOOLED: Final = try_later(
    Code.DOWN,
    "the database cannot be reached, and messages of several routes that are stored together do not"
    " go into the spool",
    RETRY_AFTER,
)

# Who the peer is, and what it may do.

TOKEN_FIRST: Final = goodbye(Code.AUTH, "say AUTH and a token first")
# Whatever is wrong with it: who has none should not learn which part was right.
WRONG_TOKEN: Final = goodbye(Code.AUTH, "no such token")
TOO_MANY_TOKENS: Final = goodbye(Code.BUSY, "too many tokens to look at; connect again later")
TOKEN_REVOKED: Final = goodbye(Code.AUTH, "the token is not good any more")
EXPIRED: Final = goodbye(Code.AUTH, "the token or certificate has expired")
CERTIFICATE_REVOKED: Final = goodbye(Code.AUTH, "the certificate is revoked")
NOTHING_GRANTED: Final = goodbye(Code.DENIED, "nothing is granted to you here")
GRANTED_NO_MORE: Final = goodbye(Code.DENIED, "what is open here is not granted any more")
OTHER_IDENTITY: Final = refused(
    Code.DENIED, "a stream or channel of another identity is open here; connect again"
)


def not_granted(what: str) -> Outcome:
    """
    Refuse what a peer may not use.

    @param what: such as C{route x} or C{PUT to 'x'}.
    """
    return refused(Code.DENIED, f"{what} is not granted")


def not_offered(channel: str, hint: str) -> Outcome:
    """
    Refuse a channel that nobody may listen to.

    @param hint: what it may be meant for, or nothing.
    """
    return refused(Code.DENIED, f"channel {channel!r} is not offered{hint}")


# Commands.

NO_AUTH: Final = refused(Code.QUERY, "AUTH is not offered by this gateway; try HELP")
AUTH_SYNTAX: Final = refused(Code.FORMAT, "AUTH takes a token")
CALL_SYNTAX: Final = refused(Code.FORMAT, "CALL takes a query and maybe its arguments in JSON")
RELAY_SYNTAX: Final = refused(
    Code.FORMAT, "RELAY takes an identifier: 1 to 64 letters, digits and hyphens"
)
PING_SYNTAX: Final = refused(Code.DATA, "PING takes text in UTF-8")
PUT_SYNTAX: Final = refused(Code.FORMAT, "PUT takes a route, a space and a payload")
NO_STREAM: Final = refused(Code.FORMAT, "a number needs a stream; say HELLO stream first")
SEEN_SYNTAX: Final = refused(
    Code.FORMAT,
    "behind the stream HELLO takes seen=N, the last number that was answered,"
    " and epoch=E, as HELLO told it",
)
COMMAND_FAILED: Final = goodbye(Code.INTERNAL, "the gateway failed; its log says why")


def unknown_verb(verb: str) -> Outcome:
    """Refuse a command that there is not."""
    return refused(Code.FORMAT, f"unknown verb {verb}; try HELP")


def takes_nothing(verb: str) -> Outcome:
    """Refuse words behind a verb that stands alone."""
    return refused(Code.FORMAT, f"{verb} takes nothing")


def takes_a_channel(verb: str) -> Outcome:
    """Refuse LISTEN or UNLISTEN without a channel's name."""
    return refused(Code.FORMAT, f"{verb} takes a channel")


def takes_a_stream(longest: int) -> Outcome:
    """
    Refuse HELLO without a stream's name.

    @param longest: bytes of a name.
    """
    return refused(
        Code.FORMAT, f"HELLO takes a stream: 1 to {longest} bytes of UTF-8 without spaces"
    )


def needs_its_number(number: int) -> Outcome:
    """
    Refuse a message without a number on a connection with a stream.

    @param number: number that the message should have.
    """
    return refused(Code.FORMAT, f"in a stream a PUT has its number: PUT route #{number} payload")


# Routes.

DATABASE_AWAY: Final = try_later(Code.DOWN, "the database cannot be reached", RETRY_AFTER)
ROUTE_PAUSED: Final = try_later(
    Code.DOWN, "the route is paused, and the gateway stops", RETRY_AFTER
)
STORING_FAILED: Final = goodbye(
    Code.INTERNAL, "the gateway failed; whether this was stored is not known"
)


def no_route(name: str) -> Outcome:
    """Refuse a message for a route that there is not."""
    return refused(Code.ROUTE, f"no route {name}")


def no_route_field(field: str) -> Outcome:
    """Refuse a message without the field that chooses its route."""
    return refused(Code.ROUTE, f"the message has no {field!r} to route it by")


def no_route_value(field: str, value: str) -> Outcome:
    """Refuse a message whose field chooses no route."""
    return refused(Code.ROUTE, f"no route where {field!r} is {value}")


def out_of_service(sqlstate: str) -> Outcome:
    """Refuse a message for a route that every message fails on."""
    return try_later(Code.ROUTE, "out of service until its operator acts", RETRY_AFTER, sqlstate)


def database_busy(sqlstate: str) -> Outcome:
    """Refuse a message that failed for what passes, again and again."""
    return try_later(Code.BUSY, "the database is busy", RETRY_AFTER, sqlstate)


# Streams.

STREAM_TAKEN: Final = goodbye(Code.BUSY, "another connection has opened this stream")
STREAM_BEHIND: Final = goodbye(
    Code.GAP, "the database is behind what it was; say HELLO again and go on from there"
)
STREAM_MOVED: Final = goodbye(
    Code.GAP, "the stream went on by another way; say HELLO again and go on from there"
)
STREAM_UNKNOWN: Final = try_later(
    Code.DOWN, "the database cannot be asked how far the stream is", RETRY_AFTER
)


def stream_not_so_far(text: str, mark: int | None = None) -> Outcome:
    """
    Refuse HELLO of a peer that has seen more than there is.

    @param text: how far the stream is.
    @param mark: the same, where it is known.
    """
    return replace(
        try_later(
            Code.GAP,
            f"the stream has not come as far as it was answered ({text}): the rest may wait in"
            " another gateway's spool",
            RETRY_AFTER,
        ),
        values="" if mark is None else f"seq={mark}",
    )


def stream_set_back(text: str) -> Outcome:
    """
    Refuse HELLO of a peer of whose stream a database has lost some.

    @param text: what it had, and has.
    """
    return try_later(
        Code.GAP,
        f"some of what was answered is gone: a database was set back to an older state ({text})",
        RETRY_AFTER,
    )


def stream_renewed(text: str) -> Outcome:
    """
    Answer who has numbers of an epoch that is over: the stream has come so far, in another one.

    @param text: how far the stream is.
    """
    return Outcome(
        Word.TRY,
        Code.GAP,
        f"the stream was taken by a peer that began a new epoch ({text}): numbers of the old one"
        " mean nothing any more",
        retry=RETRY_AFTER,
        values="taken=true",
    )


def went_on_elsewhere(number: int) -> Outcome:
    """Refuse a spooled message of a stream that its peer began anew."""
    return refused(
        Code.GAP,
        f"message #{number} of its stream was queued here, and its peer went on elsewhere"
        " without saying what it had seen; whether it was sent there again is not known",
    )


def number_not_its_own(number: int) -> Outcome:
    """Refuse a spooled message under whose number something else is stored."""
    return refused(
        Code.GAP, f"number #{number} of its stream is not shown to be this message's by now"
    )


# Queries.

QUERY_OUT_OF_ORDER: Final = try_later(Code.QUERY, "the query does not work just now")
TOO_MANY_CALLS: Final = try_later(Code.BUSY, "too many calls are waiting", RETRY_AFTER)
QUERIES_BUSY: Final = try_later(Code.BUSY, "the connections for queries are busy", RETRY_AFTER)
NO_CONNECTION: Final = try_later(Code.DOWN, "no connection to the database", RETRY_AFTER)
CALL_FAILED: Final = goodbye(
    Code.INTERNAL, "the gateway failed; whether this was done is not known"
)
CALL_LOST: Final = goodbye(
    Code.INTERNAL, "the connection to the database was lost; whether this was done is not known"
)


def no_query(name: str, hint: str) -> Outcome:
    """
    Refuse a call of a query that there is not.

    @param hint: what it may be meant for, or nothing.
    """
    return refused(Code.QUERY, f"no query {name}{hint}")


def no_answer_within(seconds: float) -> Outcome:
    """Give up a call that takes too long."""
    return try_later(Code.BUSY, f"no answer within {seconds:g} s")


def more_rows(most: int) -> Outcome:
    """Refuse an answer of too many rows."""
    return refused(Code.TOOBIG, f"more than {most} rows")


def more_bytes(most: int) -> Outcome:
    """Refuse an answer that is too long."""
    return refused(Code.TOOBIG, f"more than {most} bytes")
