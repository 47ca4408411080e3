"""
Exceptions, sorted by who must act.

The operator (L{ConfigError}, L{EmbeddedError}), the user of a command (L{InputError}),
the peer (L{PeerError}), or the gateway itself, which has to try again or report it
(L{StoreError}). The class alone tells the code that catches it what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.model.outcome import Outcome
from gateway.model.stream_marks import StreamPosition


class GatewayError(Exception):
    """Base of all; never raised itself."""


class ConfigError(GatewayError):
    """
    The operator must act; the daemon does not start.

    @ivar problems: one line each, naming the file, the key and what to do.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class EmbeddedError(GatewayError):
    """
    The operator must act: the embedded PostgreSQL or its directory is not usable.

    Its text is one line that says what to do.
    """


class InputError(GatewayError):
    """
    The user must act: the input to be sent cannot be read, or is invalid.

    Its text is one line that says where.

    @ivar messages: the good ones before the fault, still to be sent.
    """

    def __init__(self, text: str, messages: Sequence[bytes] = ()) -> None:
        super().__init__(text)
        self.messages = messages


class PeerError(GatewayError):
    """The peer must act; the same bytes fail again."""


class FramingError(PeerError):
    """
    The stream cannot be split into frames any further.

    @ivar frames: the good frames before the fault, still to be stored and answered.
    """

    def __init__(self, text: str, frames: list[bytes]) -> None:
        super().__init__(text)
        self.frames = frames


class ForeignError(FramingError):
    """The stream begins as another protocol does: HTTP, as a browser sends it, or TLS."""


class HeaderError(PeerError):
    """
    The connection of a trusted proxy did not begin with a header of the PROXY protocol.

    Its text is for the log.
    """


class TelnetError(PeerError):
    """
    Telnet's commands cannot be separated from the data any further.

    @ivar data: the data before the fault, without commands.
    @ivar answer: bytes that answer the commands before the fault.
    """

    def __init__(self, text: str, data: bytes, answer: bytes) -> None:
        super().__init__(text)
        self.data = data
        self.answer = answer


class StoreError(GatewayError):
    """
    The batch is not known to be committed.

    @ivar route: the route that it is about, where batches of several were written together; C{""}:
        of all.
    """

    route = ""


class SpoolError(GatewayError):
    """
    The spool cannot take a batch now: it is full, or its disk is. Nothing was kept.

    Its text is for the peer.
    """


class SpoolGone(SpoolError):
    """
    The spool's file or folder was removed: messages put there would be lost with the process.

    @ivar reason: for the operator.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class SpoolUnknown(SpoolError):
    """
    The spool's disk failed while it flushed: the batch may be there after a restart.
    """


class Unavailable(StoreError):
    """The batch was never sent: it is certainly not stored, and may be sent later."""


class SchemaNewer(Unavailable):
    """
    The gateway's own schema was migrated by a newer gateway, and this one does not know it.

    The operator must act.
    """


class OutcomeUnknown(StoreError):
    """The connection was lost in flight: only the fence can tell whether the batch is stored."""


class StoredPartly(StoreError):
    """
    An earlier try stored the first ones of several batches stored as one.

    The caller leaves those out and writes the rest.

    @ivar number: number of the last batch stored.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stored up to batch {number}")
        self.number = number


class FenceVoid(StoreError):
    """
    The fence was taken so that an earlier try can never store anything behind it.

    Its batch is not stored, and needs a fence of its own.

    @ivar number: number of the batch.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"the fence of batch {number} is void")
        self.number = number


class StreamBehind(GatewayError):
    """
    A stream's mark is below the number that its peer has an answer for.

    The rest may wait in another gateway's spool, or the database was set back. Its text is for
    the peer.

    @ivar lost: where one of several databases is known to have been set back: what it had, and has.
    """

    def __init__(self, text: str, lost: str = "") -> None:
        super().__init__(text)
        self.lost = lost


class TransientError(StoreError):
    """
    The database gave up on the statement for a reason that passes: try again, same fence.

    @ivar sqlstate: five characters, see L{gateway.sql.sqlstate}.
    """

    def __init__(self, text: str, sqlstate: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class RowError(StoreError):
    """
    The database refused the data: at least one row of the batch is at fault.

    @ivar sqlstate: five characters, PostgreSQL documentation appendix A.
    """

    def __init__(self, text: str, sqlstate: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class RouteError(StoreError):
    """
    Every row of this route would fail until the operator acts.

    A table or a grant is missing, a password is wrong.

    @ivar sqlstate: five characters, or C{""} where the gateway itself found the fault.
    """

    def __init__(self, text: str, sqlstate: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


Faults = list[tuple[int, Outcome]]
"""Messages that cannot be stored: (position, why), ascending."""


class BatchesRefused(PeerError):
    """
    Some frames of several batches can never be stored, see L{FramesRefused}.

    @ivar faults: faults of each batch.
    @ivar by_database: whether the database found them.
    """

    def __init__(self, faults: list[Faults], by_database: bool = False) -> None:
        super().__init__(f"{sum(map(len, faults))} frames refused")
        self.faults = faults
        self.by_database = by_database


class OrderMatters(PeerError):
    """
    Rows have to be stored in the order in which they arrived, which that of their batches is not.
    """

    def __init__(self) -> None:
        super().__init__("the order of arrival matters")


class BatchesStored(PeerError):
    """
    Some of the batches were stored before, by another try or gateway; the others are not stored.

    @ivar places: of those that were, ascending.
    """

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__(f"{len(places)} batches were stored before")
        self.places = places


class FramesRefused(PeerError):
    """
    Some frames can never be stored; the others can.

    @ivar faults: (index, reason) of the refused frames.
    @ivar by_type: whether the types of the table's columns had a part in it.
    """

    def __init__(self, faults: Faults, by_type: bool = False) -> None:
        super().__init__(f"{len(faults)} frames refused")
        self.faults = faults
        self.by_type = by_type


class StreamsElsewhere(PeerError):
    """
    The marks of some streams are not just before the batch's messages; nothing is stored.

    @ivar stream_positions: stream name -> its position in the database.
    """

    def __init__(self, stream_positions: Mapping[str, StreamPosition]) -> None:
        super().__init__(f"{len(stream_positions)} streams are elsewhere")
        self.stream_positions = stream_positions
