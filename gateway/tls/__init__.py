"""
TLS of the server; the only package here that imports OpenSSL, cryptography and service_identity.
"""
