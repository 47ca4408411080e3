-- Fences over a range of batches, for the spool; and dead letters.
--
-- What was spooled is stored by larger batches than it was spooled in: one
-- statement for the batches "first" to "last" of a lane. After a crash the same
-- batches may be put together differently, so the lane moves only if it has none
-- of them yet; else ZG001 says in its DETAIL how far it is, and what is left of
-- them is stored next. A single batch is its own first and last.

DROP FUNCTION gateway.advance(uuid, bigint);

CREATE FUNCTION gateway.advance(lane uuid, first bigint, last bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
BEGIN
    -- Waits for a transaction that is moving the same lane: a lost backend that is
    -- still committing is outwaited, not overtaken. A lane that is missing or behind
    -- (a restored or promoted database) moves all the same: the batch is not in it.
    INSERT INTO gateway.lane AS l (id, number) VALUES (advance.lane, advance.last)
    ON CONFLICT (id) DO UPDATE SET number = excluded.number, moved_at = now()
    WHERE l.number < advance.first;
    IF NOT FOUND THEN
        SELECT l.number INTO reached FROM gateway.lane l WHERE l.id = advance.lane;
        RAISE EXCEPTION 'lane % is at batch %', advance.lane, reached
            USING ERRCODE = 'ZG001', DETAIL = coalesce(reached, 0);
    END IF;
END
$$;

COMMENT ON FUNCTION gateway.advance(uuid, bigint, bigint) IS
    'Lets batches be stored once: ZG001 says that some of them are stored already.';

CREATE TABLE gateway.dead_letter (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    refused_at  timestamptz NOT NULL DEFAULT now(),
    route       text NOT NULL,
    peer        text,                       -- host:port
    listener    text,
    identity    text,                       -- who the peer proved to be
    received_at timestamptz,
    sqlstate    text,                       -- NULL: the gateway itself refused it
    error       text NOT NULL,
    attempts    int NOT NULL DEFAULT 1,     -- one more for each replay that failed
    frame       bytea NOT NULL              -- the message as it came
);

COMMENT ON TABLE gateway.dead_letter IS
    'Messages that were refused and kept; see "gateway dead-letters".';
