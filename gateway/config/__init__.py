"""
Configuration: TOML to frozen structs, with all problems at once; the only package that reads
the file's keys.
"""
