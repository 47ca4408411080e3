-- Numbered streams: how far each one is, moved in the transaction that stores its messages.
--
-- A stream has a mark for each route: the highest number stored through it. Whoever sends
-- for it has claimed it, and a later claim ends the one before: an older gateway's next
-- batch does not move the mark, and so is not stored.

CREATE TABLE gateway.stream (
    name     text PRIMARY KEY,              -- the peer's
    claim    bigint NOT NULL DEFAULT 0,     -- one more for each HELLO
    marks    jsonb NOT NULL DEFAULT '{}',   -- route -> number
    moved_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);                   -- room to move in place (HOT), many times a second

COMMENT ON TABLE gateway.stream IS 'The last message of each numbered stream.';

-- Messages of streams that were refused: whoever did not hear of it and sends one again is
-- told again. Those far behind are forgotten when the stream is claimed.

CREATE TABLE gateway.refusal (
    stream text NOT NULL,
    number bigint NOT NULL,
    answer jsonb NOT NULL,                  -- [code, SQLSTATE, column at fault, text]
    PRIMARY KEY (stream, number)
);

COMMENT ON TABLE gateway.refusal IS 'What was told to refused messages of numbered streams.';

CREATE FUNCTION gateway.claim(stream text, kept bigint)
RETURNS TABLE (claim bigint, marks jsonb, refusals jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO gateway.stream AS s (name, claim) VALUES (claim.stream, 1)
    ON CONFLICT (name) DO UPDATE SET claim = s.claim + 1
    RETURNING s.claim, s.marks INTO claim.claim, claim.marks;
    DELETE FROM gateway.refusal r WHERE r.stream = claim.stream AND r.number
        < (SELECT max(m.value::bigint) FROM jsonb_each_text(claim.marks) m) - claim.kept;
    claim.refusals := (
        SELECT jsonb_object_agg(r.number, r.answer) FROM gateway.refusal r
         WHERE r.stream = claim.stream);
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION gateway.claim(text, bigint) IS
    'Makes a stream its caller''s, and tells how far it is.';

-- Move the marks of the streams that have messages in a batch, before the batch moves its
-- lane. Waits for a transaction that is moving the same streams. Where one has not moved as
-- expected, ZG001 says that this very batch is stored, as gateway.advance would; else ZG003
-- says in its DETAIL how far they are.
--
-- moves: [name, claim or null, mark before or null, first number, last number, refused],
-- refused: number -> answer. Without a claim these are messages of a spool, which moves
-- the mark wherever it is behind them.

CREATE FUNCTION gateway.follow(lane uuid, first bigint, route text, moves jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    move jsonb;
    before bigint;
    reached bigint;
    unmoved jsonb := '{}';
BEGIN
    FOR move IN SELECT m.value FROM jsonb_array_elements(follow.moves) m LOOP
        IF move->1 = 'null' THEN
            INSERT INTO gateway.stream (name) VALUES (move->>0) ON CONFLICT DO NOTHING;
        END IF;
        before := (move->>2)::bigint;
        UPDATE gateway.stream s
           SET marks = s.marks || jsonb_build_object(follow.route, move->4), moved_at = now()
         WHERE s.name = move->>0
           AND (move->1 = 'null' OR s.claim = (move->>1)::bigint)
           AND CASE WHEN before IS NULL
                    THEN coalesce((s.marks->>follow.route)::bigint, 0) < (move->>3)::bigint
                    ELSE coalesce((s.marks->>follow.route)::bigint, 0) = before END;
        IF NOT FOUND THEN
            unmoved := unmoved || jsonb_build_object(move->>0, coalesce((
                SELECT jsonb_build_array(
                           move->1 = 'null' OR s.claim = (move->>1)::bigint,
                           coalesce((s.marks->>follow.route)::bigint, 0))
                  FROM gateway.stream s WHERE s.name = move->>0), '[false, 0]'));
        ELSIF move->5 <> '{}' THEN
            INSERT INTO gateway.refusal (stream, number, answer)
            SELECT move->>0, r.key::bigint, r.value FROM jsonb_each(move->5) r
            ON CONFLICT (stream, number) DO UPDATE SET answer = excluded.answer;
        END IF;
    END LOOP;
    IF unmoved <> '{}' THEN
        SELECT l.number INTO reached FROM gateway.lane l WHERE l.id = follow.lane;
        IF reached >= follow.first THEN
            RAISE EXCEPTION 'lane % is at batch %', follow.lane, reached
                USING ERRCODE = 'ZG001', DETAIL = reached;
        END IF;
        RAISE EXCEPTION 'streams have moved' USING ERRCODE = 'ZG003', DETAIL = unmoved;
    END IF;
END
$$;

COMMENT ON FUNCTION gateway.follow(uuid, bigint, text, jsonb) IS
    'Moves streams with a batch: ZG003 says that some of its messages are not next.';

-- Remember the rows of the lane's last batch that were refused and are of streams.
--
-- parts: [name, first row, first number, how many], rows from 1.

CREATE FUNCTION gateway.remember_refusals(lane uuid, parts jsonb) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO gateway.refusal (stream, number, answer)
    SELECT p->>0, (p->>2)::bigint + (r->>0)::bigint - (p->>1)::bigint,
           jsonb_build_array('', r->1, r->2, r->3)
      FROM gateway.lane l,
           jsonb_array_elements(l.fates::jsonb->'refused') r,
           jsonb_array_elements(parts) p
     WHERE l.id = lane
       AND (r->>0)::bigint BETWEEN (p->>1)::bigint AND (p->>1)::bigint + (p->>3)::bigint - 1
    ON CONFLICT (stream, number) DO UPDATE SET answer = excluded.answer
$$;

COMMENT ON FUNCTION gateway.remember_refusals(uuid, jsonb) IS
    'Keeps what was told to refused messages of numbered streams.';
