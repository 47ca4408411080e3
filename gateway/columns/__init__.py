"""Conversion of values for a table's columns: values in, PostgreSQL's array literals out."""
