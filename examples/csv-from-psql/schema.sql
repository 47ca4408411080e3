-- The database that rows are taken from: 1000 orders, two of them without an amount.
CREATE TABLE IF NOT EXISTS orders (
    id bigint PRIMARY KEY,
    customer text,
    amount numeric,
    ordered_at timestamptz,
    note text
);
INSERT INTO orders
SELECT
    n,
    'customer ' || n % 7,
    CASE WHEN n % 400 <> 0 THEN n * 1.25 END,
    '2026-11-01T00:00:00Z'::timestamptz + n * interval '1 minute',
    CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'one, "two", ' || n END
FROM generate_series(1, 1000) AS n
ON CONFLICT DO NOTHING;
