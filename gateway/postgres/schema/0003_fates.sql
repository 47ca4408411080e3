-- Fates: what became of the rows of a lane's last batch, where it was not the same for all.
--
-- Rows may be refused or be duplicates while their neighbours are stored, and stored
-- rows may have values to tell. The reply that says so can be lost with its
-- connection; whoever asks again behind the same fence is told from here.

ALTER TABLE gateway.lane
    ADD COLUMN fates text;                  -- JSON; NULL: every row is stored, and no more to tell

CREATE OR REPLACE FUNCTION gateway.advance(lane uuid, first bigint, last bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
BEGIN
    -- Waits for a transaction that is moving the same lane: a lost backend that is
    -- still committing is outwaited, not overtaken. A lane that is missing or behind
    -- (a restored or promoted database) moves all the same: the batch is not in it.
    INSERT INTO gateway.lane AS l (id, number) VALUES (advance.lane, advance.last)
    ON CONFLICT (id) DO UPDATE SET number = excluded.number, moved_at = now(), fates = NULL
    WHERE l.number < advance.first;
    IF NOT FOUND THEN
        SELECT l.number INTO reached FROM gateway.lane l WHERE l.id = advance.lane;
        RAISE EXCEPTION 'lane % is at batch %', advance.lane, reached
            USING ERRCODE = 'ZG001', DETAIL = coalesce(reached, 0);
    END IF;
END
$$;

CREATE FUNCTION gateway.remember(lane uuid, fates text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    IF remember.fates IS NULL THEN
        RAISE EXCEPTION 'rows cannot be told apart' USING ERRCODE = 'ZG002';
    END IF;
    IF remember.fates <> '{}' THEN
        UPDATE gateway.lane l SET fates = remember.fates WHERE l.id = remember.lane;
    END IF;
    RETURN remember.fates;
END
$$;

COMMENT ON FUNCTION gateway.remember(uuid, text) IS
    'Keeps what became of the rows of a batch; ZG002 says that only one by one could tell.';
