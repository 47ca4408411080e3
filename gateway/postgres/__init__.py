"""
PostgreSQL: the only package that imports txpostgres and psycopg2.
"""
