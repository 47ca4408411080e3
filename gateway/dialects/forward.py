"""
Dialect of Fluent's forward protocol: chunks of log records, acknowledged when they are stored.

A chunk with an id is one unit, known by its sender, its tag, its id and its content, so that one
that is sent again is stored once. Chunks without an id want no acknowledgement, and those of one
read are stored together. What is not stored is not acknowledged, and the connection ends: its
sender keeps the chunk, and sends it again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from gateway.dialects.acknowledging import AcknowledgingDialect, AcknowledgingReader
from gateway.dialects.base import Peer
from gateway.model.errors import FramingError
from gateway.model.outcome import Code, goodbye, is_kept
from gateway.model.unit import unit_key
from gateway.wire.event_stream import EventStream
from gateway.wire.forward import Chunk, parse_chunk
from gateway.wire.forward_handshake import SALT_BYTES, Handshake, HandshakeSecrets

_TURN: Final = 32
"""Portions of a chunk's messages that are made before others get their turn: some 10 ms."""

_NOT_IN_FORCE: Final = goodbye(Code.AUTH, "the shared key or password is not in force any more")


@dataclass(slots=True)
class _Gathered:
    """
    Messages that are to be stored together.

    @ivar oversize: positions of those that were too long.
    """

    messages: list[bytes] = field(default_factory=list)
    oversize: set[int] = field(default_factory=set)


class ForwardReader(AcknowledgingReader):
    """
    Reader of one peer's chunks.
    """

    remembers = True

    def __init__(self, peer: Peer, dialect: AcknowledgingDialect) -> None:
        super().__init__(peer, dialect)
        self._secrets = self.settings.handshake
        # Until the peer has proved what it has to know.
        self._handshake: Handshake | None = None
        self._user = ""
        if self._secrets is not None:
            nonce, salt = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(SALT_BYTES)
            self._handshake = Handshake(self._secrets, nonce, salt)
            self.greeting = self._handshake.helo

    async def handle(self, frames: list[bytes]) -> bool:
        try:
            if self._handshake is not None:
                if not self._let_in(self._handshake, frames[0]):
                    return True
                frames = frames[1:]
            return not await self._store_all(frames)
        except FramingError as error:
            self.peer.log_close(goodbye(Code.FORMAT, str(error)))
            return True

    def replace_dialect(self, dialect: AcknowledgingDialect) -> None:
        super().replace_dialect(dialect)
        if not _is_let_in(self.settings.handshake, self._secrets, self._user):
            self.peer.close_with(self.peer.log_close(_NOT_IN_FORCE))

    def _let_in(self, handshake: Handshake, frame: bytes) -> bool:
        """
        Judge what the peer knows, and tell it.
        """
        result = handshake.check_ping(frame)
        self.write(result.pong)
        if result.fault:
            text = f"forward: {result.fault} (the sender calls itself {result.hostname!r})"
            self.peer.log_close(goodbye(Code.AUTH, text))
            return False
        self._handshake = None
        self._user = result.user
        if not result.user:
            return True
        return self.peer.set_identity(self.peer.peer_info.with_password(result.user)) is None

    async def _store_all(self, frames: list[bytes]) -> bool:
        """
        Store and acknowledge the chunks of one read.

        @return: whether all of it is stored.
        @raise FramingError: a frame is no chunk; what was before it is stored and acknowledged.
        """
        plain = _Gathered()
        # Consecutive ones are made into messages together.
        records: list[Chunk] = []
        try:
            for frame in frames:
                chunk = parse_chunk(frame, self.settings.max_chunk)
                if chunk.is_message and not chunk.id:
                    records.append(chunk)
                    continue
                stream = self._stream(chunk.tag, chunk.entries)
                await self._gather_records(records, plain)
                if not chunk.id:
                    await self._gather(stream, plain)
                    continue
                if not await self._store(plain):
                    return False
                plain = _Gathered()
                if self._hurried:
                    # Its sender could not hear of it, and sends it again.
                    return False
                gathered = _Gathered()
                await self._gather(stream, gathered)
                if not await self._store(gathered, chunk):
                    return False
        except FramingError:
            await self._gather_records(records, plain)
            await self._store(plain)
            raise
        await self._gather_records(records, plain)
        return await self._store(plain)

    def _stream(self, tag: bytes, entries: bytes) -> EventStream:
        settings = self.settings
        # Where a field chooses among routes, they have one format.
        packed = any(str(reading.format) == "msgpack" for reading in settings.formats.values())
        now = round(settings.wall() * 10**9)
        return EventStream(tag, entries, settings.max_frame, now, packed)

    async def _gather_records(self, records: list[Chunk], gathered: _Gathered) -> None:
        """
        Make messages of single records, and take them off their list.
        """
        for tag, alike in groupby(records, attrgetter("tag")):
            entries = b"".join([record.entries for record in alike])
            await self._gather(self._stream(tag, entries), gathered)
        records.clear()

    async def _gather(self, stream: EventStream, gathered: _Gathered) -> None:
        """
        Make a chunk's messages.
        """
        before = len(gathered.messages)
        for number, portion in enumerate(stream.portions(), 1):
            gathered.messages += portion
            if number % _TURN == 0:
                await self.hold(0)
        gathered.oversize.update(before + position for position in stream.oversize)

    async def _store(self, gathered: _Gathered, chunk: Chunk | None = None) -> bool:
        """
        Store messages, and acknowledge their chunk.

        @param chunk: C{None}: no acknowledgement is wanted.
        """
        ack = b"" if chunk is None else chunk.ack
        if not gathered.messages:
            self.write(ack)
            return True
        key = None if chunk is None or not self.settings.remember_chunks else self._key(chunk)
        runs = await self.store(gathered.messages, key, gathered.oversize)
        if not all(is_kept(fate) for _, fate in runs):
            self.give_up(runs)
            return False
        self.write(ack, runs)
        return True

    def _key(self, chunk: Chunk) -> str:
        """
        Return the key by which a chunk is known.
        """
        peer_info = self.peer.peer_info
        sender = f"identity {peer_info.identity}"
        if peer_info.identity is None:
            # The port is another one when it connects again.
            sender = f"address {peer_info.address or 'unix'}"
        return unit_key(b"forward", sender.encode(), chunk.tag, chunk.id, chunk.entries)


def _is_let_in(
    secrets_now: HandshakeSecrets | None, secrets_then: HandshakeSecrets | None, user: str
) -> bool:
    """
    Say whether what a peer has proved, or has been asked to prove, is enough after a reload.

    @param secrets_then: what it was asked for when it connected.
    """
    if secrets_now is None:
        return True
    if secrets_then is None or secrets_then.shared_key != secrets_now.shared_key:
        return False
    users_now, users_then = secrets_now.users, secrets_then.users
    if users_now is None or not user:
        return users_now is None or users_then == users_now
    return users_then is not None and users_then.get(user) == users_now.get(user)
