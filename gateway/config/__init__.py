"""
Parse the configuration: TOML to frozen structs, with all problems reported at once; the only
package that reads the keys of the file.
"""
