"""
PostgreSQL: the only package that imports txpostgres and psycopg2.
"""

try:
    import psycopg2  # noqa: F401 - whether it is there, and finds its libpq
except ImportError as error:
    raise SystemExit(
        f"gateway: psycopg2 cannot be used ({error}): pip install 'txgateway[binary]', or"
        " 'txgateway[source]' to compile it against the libpq of this machine"
    ) from None
