"""
TLS: the only package on the server's side that imports OpenSSL, cryptography and
service_identity.
"""
