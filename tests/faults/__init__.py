"""Faults made on purpose, against gateways as processes."""
