"""The listeners of a configuration: who is admitted, and what they begin with."""
