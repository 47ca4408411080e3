-- Lanes: who may store which batch next.
--
-- A lane is a logical writer of one gateway process with at most one batch in
-- flight; number is that of the last batch it committed. Moving it and storing the
-- batch is one transaction, so a batch whose fate is unknown (the connection was
-- lost) can be stored again under its number: it is stored once, whichever
-- transaction comes first.

CREATE TABLE gateway.lane (
    id       uuid PRIMARY KEY,              -- made up by the gateway
    number   bigint NOT NULL,               -- of the last committed batch, from 1
    moved_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);                   -- room to move in place (HOT), many times a second

COMMENT ON TABLE gateway.lane IS 'The last batch each writer of a gateway has committed.';

-- Move a lane to the given number, or raise ZG001 if it is there already.
--
-- Waits for a transaction that is moving the same lane: a lost backend that is
-- still committing is outwaited, not overtaken. A lane that is missing or behind
-- (a restored or promoted database) moves all the same: the batch is not in it.

CREATE FUNCTION gateway.advance(lane uuid, next bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gateway.lane AS l (id, number) VALUES (advance.lane, advance.next)
    ON CONFLICT (id) DO UPDATE SET number = excluded.number, moved_at = now()
    WHERE l.number < excluded.number;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'batch % of lane % is stored', advance.next, advance.lane
            USING ERRCODE = 'ZG001';
    END IF;
END
$$;

COMMENT ON FUNCTION gateway.advance(uuid, bigint) IS
    'Lets a batch be stored once: ZG001 says that it is stored already.';
