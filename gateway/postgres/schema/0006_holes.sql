-- A peer that knows nothing begins a new epoch, unless all that waits for it goes on from the
-- mark. Where some of it stands behind a hole, the numbers in the hole are about to be given to
-- other messages, and what stands behind it would be taken for them.

CREATE OR REPLACE FUNCTION gateway.claim(
    stream text, seen bigint, epoch text, spooled jsonb, kept bigint,
    OUT claim uuid, OUT now_epoch uuid, OUT mark bigint, OUT refusals jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    waiting jsonb;
    reached bigint;
    last bigint;
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
