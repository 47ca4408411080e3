-- Numbered streams, anew: one mark for a stream, moved over exactly the numbers of a batch, so
-- that nothing is overtaken over whatever routes; epochs, in which one number is one message;
-- and digests, by which a message is shown to be the one that was stored under its number.

ALTER TABLE gateway.stream
    ADD COLUMN mark   bigint NOT NULL DEFAULT 0,      -- every number up to it is settled
    ADD COLUMN epoch  uuid,                           -- NULL: never opened
    ADD COLUMN recent bytea NOT NULL DEFAULT '';      -- digests of the last messages, up to mark

-- What HELLO told until now.
UPDATE gateway.stream SET
    mark  = coalesce((SELECT max(m.value::bigint) FROM jsonb_each_text(marks) m), 0),
    epoch = gen_random_uuid();

-- A claim is made up, never counted: a database that was set back would give a number out again.
ALTER TABLE gateway.stream DROP COLUMN marks, DROP COLUMN claim, ADD COLUMN claim uuid;

-- Digests before those in gateway.stream, some dozens in a row: eight bytes for each message.
CREATE TABLE gateway.digest (
    stream  text NOT NULL,
    first   bigint NOT NULL,                          -- the number of the first one
    digests bytea NOT NULL,
    PRIMARY KEY (stream, first)
);

-- Nothing in them can be compressed.
ALTER TABLE gateway.digest ALTER digests SET STORAGE EXTERNAL;

COMMENT ON TABLE gateway.digest IS
    'What the last messages of numbered streams were, eight bytes for each.';

DROP FUNCTION gateway.claim(text, bigint);
DROP FUNCTION gateway.follow(uuid, bigint, text, jsonb);

-- Make a stream its caller's, and tell how far it is.
--
-- seen, epoch: what its peer had an answer for; NULL: it does not say. spooled: epoch -> the
-- numbers that wait in the caller's spool, [first, last] ascending; what goes on exactly from the
-- mark counts as settled. Under '' are those of a gateway that knew of no epochs. Where the
-- stream has not come as far as seen, nothing is changed, and ZG004 says in its DETAIL how far
-- it is.

CREATE FUNCTION gateway.claim(
    stream text, seen bigint, epoch text, spooled jsonb, kept bigint,
    OUT claim uuid, OUT now_epoch uuid, OUT mark bigint, OUT refusals jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    waiting jsonb;
    reached bigint;
BEGIN
    INSERT INTO gateway.stream AS s (name) VALUES (claim.stream) ON CONFLICT DO NOTHING;
    SELECT s.mark, s.epoch INTO claim.mark, claim.now_epoch
      FROM gateway.stream s WHERE s.name = claim.stream FOR UPDATE;
    IF claim.now_epoch IS NULL THEN
        -- The database does not know it, or not any more; the spool may.
        SELECT nullif(e.key, '')::uuid INTO claim.now_epoch FROM jsonb_each(claim.spooled) e
         WHERE e.value->0->>0 = '1' AND claim.mark = 0
           AND 1 = (SELECT count(*) FROM jsonb_each(claim.spooled) o WHERE o.value->0->>0 = '1');
    END IF;
    waiting := coalesce(claim.spooled->(claim.now_epoch::text), '[]')
               || coalesce(claim.spooled->'', '[]');
    reached := claim.mark;
    SELECT coalesce(max(g.reached), claim.mark) INTO reached FROM (
        WITH RECURSIVE step(reached) AS (
            SELECT claim.mark
            UNION
            SELECT greatest(step.reached, (w->>1)::bigint)
              FROM step, jsonb_array_elements(waiting) w
             WHERE (w->>0)::bigint <= step.reached + 1)
        SELECT step.reached FROM step) g;
    IF claim.seen IS NULL THEN
        IF reached = claim.mark THEN
            claim.now_epoch := gen_random_uuid();
        END IF;
    ELSIF reached < claim.seen
          OR (claim.epoch IS NOT NULL AND claim.epoch IS DISTINCT FROM claim.now_epoch::text) THEN
        RAISE EXCEPTION 'stream % is at %', claim.stream, reached
            USING ERRCODE = 'ZG004', DETAIL = reached;
    END IF;
    claim.now_epoch := coalesce(claim.now_epoch, gen_random_uuid());
    claim.claim := gen_random_uuid();
    UPDATE gateway.stream s SET claim = claim.claim, epoch = claim.now_epoch
     WHERE s.name = claim.stream;
    DELETE FROM gateway.refusal r
     WHERE r.stream = claim.stream AND r.number < claim.mark - claim.kept;
    claim.refusals := (
        SELECT jsonb_object_agg(r.number, r.answer) FROM gateway.refusal r
         WHERE r.stream = claim.stream);
END
$$;

COMMENT ON FUNCTION gateway.claim(text, bigint, text, jsonb, bigint) IS
    'Makes a stream its caller''s, and tells how far it is; ZG004 says that it is behind.';

-- Where a stream is that did not move: {name: [claimed, in its epoch, mark, number of the first
-- digest, digests]}, the latter of those of its messages that are known.

CREATE FUNCTION gateway.standing(
    name text, claim uuid, epoch text, first bigint, last bigint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(standing.name, jsonb_build_array(
               standing.claim IS NULL OR coalesce(s.claim = standing.claim, false),
               standing.epoch = '' OR s.epoch IS NULL OR s.epoch::text = standing.epoch,
               coalesce(s.mark, 0), d.first, encode(d.digests, 'base64')))
      FROM (VALUES (standing.name)) v(name)
      LEFT JOIN gateway.stream s ON s.name = v.name
     CROSS JOIN LATERAL (
           SELECT coalesce(min(p.first), 1) AS first,
                  coalesce(string_agg(p.digests, '' ORDER BY p.first), '') AS digests
             FROM (SELECT g.first, g.digests FROM gateway.digest g
                    WHERE standing.claim IS NULL AND g.stream = standing.name
                      AND g.first <= standing.last
                      AND g.first + octet_length(g.digests) / 8 > standing.first
                   UNION ALL
                   SELECT s.mark + 1 - octet_length(s.recent) / 8, s.recent
                    WHERE standing.claim IS NULL AND s.recent <> ''
                      AND s.mark + 1 - octet_length(s.recent) / 8 <= standing.last) p) d
$$;

-- Move streams over the numbers of a commit, before it moves its lane. Waits for a transaction
-- that is moving the same streams. Where one is not just before its numbers, ZG001 says that
-- this very batch is stored, as gateway.advance would; else ZG003 says in its DETAIL where
-- they are, see gateway.standing.
--
-- For each stream its name, claim, epoch, first and last number and the digests of the messages;
-- without a claim these are messages of a spool, or the database was not asked for one. refused:
-- name -> number -> answer.

CREATE FUNCTION gateway.follow(
    lane uuid, first bigint, names text[], claims uuid[], epochs text[], firsts bigint[],
    lasts bigint[], digests bytea[], refused jsonb, kept bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    many boolean;
    last_ones bytea;
    all_recent bytea;
    reached bigint;
    unmoved jsonb := '{}';
BEGIN
    FOR i IN 1 .. cardinality(names) LOOP
        IF claims[i] IS NULL AND firsts[i] = 1 THEN
            INSERT INTO gateway.stream (name) VALUES (names[i]) ON CONFLICT DO NOTHING;
        END IF;
        many := octet_length(digests[i]) >= 512;
        UPDATE gateway.stream s
           SET mark = lasts[i],
               epoch = coalesce(s.epoch, nullif(epochs[i], '')::uuid),
               recent = CASE WHEN many THEN s.recent ELSE s.recent || follow.digests[i] END,
               moved_at = now()
         WHERE s.name = names[i]
           AND s.mark = firsts[i] - 1
           AND (claims[i] IS NULL OR s.claim = claims[i])
           AND (epochs[i] = '' OR s.epoch IS NULL OR s.epoch::text = epochs[i])
        RETURNING s.recent INTO last_ones;
        IF NOT FOUND THEN
            unmoved := unmoved || gateway.standing(
                names[i], claims[i], epochs[i], firsts[i], lasts[i]);
            CONTINUE;
        END IF;
        IF many OR octet_length(last_ones) >= 1024 THEN
            all_recent := CASE WHEN many THEN last_ones || digests[i] ELSE last_ones END;
            INSERT INTO gateway.digest AS g (stream, first, digests)
            VALUES (names[i], lasts[i] + 1 - octet_length(all_recent) / 8, all_recent)
            ON CONFLICT ON CONSTRAINT digest_pkey DO UPDATE SET digests = excluded.digests;
            IF last_ones <> '' THEN
                UPDATE gateway.stream s SET recent = '' WHERE s.name = names[i];
            END IF;
        END IF;
        IF lasts[i] / 1000 <> (firsts[i] - 1) / 1000 THEN
            DELETE FROM gateway.digest g WHERE g.stream = names[i]
               AND g.first + octet_length(g.digests) / 8 < lasts[i] - kept;
        END IF;
        IF refused ? names[i] THEN
            INSERT INTO gateway.refusal (stream, number, answer)
            SELECT names[i], r.key::bigint, r.value FROM jsonb_each(refused->names[i]) r
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

COMMENT ON FUNCTION gateway.follow(
    uuid, bigint, text[], uuid[], text[], bigint[], bigint[], bytea[], jsonb, bigint) IS
    'Moves streams with a commit: ZG003 says that they are not just before its messages.';

-- Take a fence without storing anything behind it, so that whatever a lost connection still
-- wants to store there never is; ZG001 as gateway.advance. The lane's fates say so.

CREATE FUNCTION gateway.void(lane uuid, first bigint, last bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
BEGIN
    INSERT INTO gateway.lane AS l (id, number, fates) VALUES (void.lane, void.last, 'void')
    ON CONFLICT (id) DO UPDATE
       SET number = excluded.number, moved_at = now(), fates = excluded.fates
     WHERE l.number < void.first;
    IF NOT FOUND THEN
        SELECT l.number INTO reached FROM gateway.lane l WHERE l.id = void.lane;
        RAISE EXCEPTION 'lane % is at batch %', void.lane, reached
            USING ERRCODE = 'ZG001', DETAIL = coalesce(reached, 0);
    END IF;
END
$$;

COMMENT ON FUNCTION gateway.void(uuid, bigint, bigint) IS
    'Lets batches never be stored: ZG001 says that some of them are.';
