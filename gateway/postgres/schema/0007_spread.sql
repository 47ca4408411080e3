-- Streams whose messages are stored in several databases.
--
-- Each of them has a row for the stream, with the number of the last message that it stored
-- itself. A gateway stores a number only when all before it are settled, wherever that is, so the
-- highest mark of all is that of the stream. Every write notes what the marks of all databases
-- were, so that a database that has lost commits since is found out. The stream's home is where
-- its epoch is, and whose claim decides.

ALTER TABLE gateway.stream
    ADD COLUMN marks jsonb;                 -- database -> its mark, as of the last write; NULL: one has all

-- How far a stream is here, without a change: nothing where it is not known.

CREATE FUNCTION gateway.spread_position(
    stream text, OUT claim text, OUT epoch text, OUT mark bigint, OUT marks jsonb)
LANGUAGE sql STABLE AS $$
    SELECT s.claim::text, s.epoch::text, s.mark, coalesce(s.marks, '{}')
      FROM gateway.stream s WHERE s.name = spread_position.stream
$$;

COMMENT ON FUNCTION gateway.spread_position(text) IS
    'Tells how far a stream is in this database.';

-- Make a stream the caller's in this database: whatever others still want to store for it here is
-- refused.
--
-- claim: the word of the claim, the same in all databases. before: the claim that it replaces; where
-- another one has come since, this one is late, maybe by hours, and nothing is changed. epoch: NULL:
-- the one it has, or a new one; in another one nothing counts as lost that was lost before.

CREATE FUNCTION gateway.claim_spread(
    stream text, claim uuid, before uuid, epoch uuid, kept bigint,
    OUT now_epoch text, OUT mark bigint, OUT marks jsonb, OUT refusals jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO gateway.stream AS s (name, claim, epoch, marks)
    VALUES (claim_spread.stream, claim_spread.claim,
            coalesce(claim_spread.epoch, gen_random_uuid()), '{}')
    ON CONFLICT (name) DO UPDATE
       SET claim = excluded.claim,
           epoch = coalesce(claim_spread.epoch, s.epoch, excluded.epoch),
           marks = CASE WHEN claim_spread.epoch IS DISTINCT FROM s.epoch
                         AND claim_spread.epoch IS NOT NULL
                        THEN '{}' ELSE coalesce(s.marks, '{}') END
     WHERE s.claim IS NOT DISTINCT FROM claim_spread.before
    RETURNING s.epoch::text, s.mark, s.marks
         INTO claim_spread.now_epoch, claim_spread.mark, claim_spread.marks;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another connection has opened the stream' USING ERRCODE = '40001';
    END IF;
    DELETE FROM gateway.refusal r
     WHERE r.stream = claim_spread.stream AND r.number < claim_spread.mark - claim_spread.kept;
    claim_spread.refusals := (
        SELECT jsonb_object_agg(r.number, r.answer) FROM gateway.refusal r
         WHERE r.stream = claim_spread.stream);
END
$$;

COMMENT ON FUNCTION gateway.claim_spread(text, uuid, uuid, uuid, bigint) IS
    'Makes a stream over several databases its caller''s in this one, and tells how far it is here.';

-- Move streams over the numbers of a commit in this database, as gateway.follow where one database
-- has all. befores: the last number that each has here; marks: of all databases after this commit.

CREATE FUNCTION gateway.follow_spread(
    lane uuid, first bigint, names text[], claims uuid[], epochs text[], befores bigint[],
    firsts bigint[], lasts bigint[], marks jsonb[], refused jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
    unmoved jsonb := '{}';
BEGIN
    FOR i IN 1 .. cardinality(names) LOOP
        UPDATE gateway.stream s
           SET mark = lasts[i], marks = follow_spread.marks[i], moved_at = now()
         WHERE s.name = names[i]
           AND s.claim = claims[i]
           AND s.epoch::text = epochs[i]
           AND s.marks IS NOT NULL
           AND s.mark = befores[i]
           AND s.mark < firsts[i];
        IF NOT FOUND THEN
            unmoved := unmoved || gateway.standing(
                names[i], claims[i], epochs[i], firsts[i], lasts[i]);
            CONTINUE;
        END IF;
        IF refused ? names[i] THEN
            INSERT INTO gateway.refusal (stream, number, answer)
            SELECT names[i], r.key::bigint, r.value FROM jsonb_each(refused->names[i]) r
            ON CONFLICT (stream, number) DO UPDATE SET answer = excluded.answer;
        END IF;
    END LOOP;
    IF unmoved <> '{}' THEN
        SELECT l.number INTO reached FROM gateway.lane l WHERE l.id = follow_spread.lane;
        IF reached >= follow_spread.first THEN
            RAISE EXCEPTION 'lane % is at batch %', follow_spread.lane, reached
                USING ERRCODE = 'ZG001', DETAIL = reached;
        END IF;
        RAISE EXCEPTION 'streams have moved' USING ERRCODE = 'ZG003', DETAIL = unmoved;
    END IF;
END
$$;

COMMENT ON FUNCTION gateway.follow_spread(
    uuid, bigint, text[], uuid[], text[], bigint[], bigint[], bigint[], jsonb[], jsonb) IS
    'Moves streams over several databases with a commit in this one.';

-- A gateway that has one database alone knows nothing of what the others have: it is refused the
-- stream, and what it still has for it in its spool is not stored.

CREATE OR REPLACE FUNCTION gateway.claim(
    stream text, seen bigint, epoch text, spooled jsonb, kept bigint,
    OUT claim uuid, OUT now_epoch uuid, OUT mark bigint, OUT refusals jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    waiting jsonb;
    reached bigint;
    last bigint;
    is_spread boolean;
BEGIN
    INSERT INTO gateway.stream AS s (name) VALUES (claim.stream) ON CONFLICT DO NOTHING;
    SELECT s.mark, s.epoch, s.marks IS NOT NULL INTO claim.mark, claim.now_epoch, is_spread
      FROM gateway.stream s WHERE s.name = claim.stream FOR UPDATE;
    IF is_spread THEN
        RAISE EXCEPTION 'stream % is spread over several databases, which this gateway has not got',
            claim.stream USING ERRCODE = '55006';
    END IF;
    IF claim.now_epoch IS NULL THEN
        -- The database does not know it, or not any more; the spool may.
        SELECT nullif(e.key, '')::uuid INTO claim.now_epoch FROM jsonb_each(claim.spooled) e
         WHERE e.value->0->>0 = '1' AND claim.mark = 0
           AND 1 = (SELECT count(*) FROM jsonb_each(claim.spooled) o WHERE o.value->0->>0 = '1');
    END IF;
    waiting := coalesce(claim.spooled->(claim.now_epoch::text), '[]')
               || coalesce(claim.spooled->'', '[]');
    SELECT max(g.reached) INTO reached FROM (
        WITH RECURSIVE step(reached) AS (
            SELECT claim.mark
            UNION
            SELECT greatest(step.reached, (w->>1)::bigint)
              FROM step, jsonb_array_elements(waiting) w
             WHERE (w->>0)::bigint <= step.reached + 1)
        SELECT step.reached FROM step) g;
    IF claim.seen IS NULL THEN
        SELECT coalesce(max((w->>1)::bigint), 0) INTO last FROM jsonb_array_elements(waiting) w;
        IF reached = claim.mark OR last > reached THEN
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

CREATE OR REPLACE FUNCTION gateway.standing(
    name text, claim uuid, epoch text, first bigint, last bigint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(standing.name, jsonb_build_array(
               standing.claim IS NULL OR coalesce(s.claim = standing.claim, false),
               (standing.epoch = '' OR s.epoch IS NULL OR s.epoch::text = standing.epoch)
               AND (standing.claim IS NOT NULL OR s.marks IS NULL),
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

CREATE OR REPLACE FUNCTION gateway.follow(
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
           AND s.marks IS NULL
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
