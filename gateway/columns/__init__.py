"""What a table's columns hold: values in, PostgreSQL's array literals out."""
