"""
Advice for TLS errors between libpq and the server.

libpq says what is wrong; its further lines at times advise to skip the check, which is no advice.
The texts are those of libpq 13 to 18 (fe-secure*.c, fe-connect.c) and the server's auth.c; texts in
other languages are passed on unchanged.
"""

from __future__ import annotations

import re
from typing import Final

_ADVICE: Final = (
    (
        r"server certificate for .* does not match host name",
        "host= must be a name in the certificate; hostaddr= beside it may say where that is",
    ),
    (
        r"host name must be specified for a verified SSL connection",
        "add host= with the name in the server's certificate",
    ),
    (
        r"certificate verify failed",
        "sslrootcert= must name the authority that signed the server's certificate, which must be"
        " in date",
    ),
    (
        r"root certificate file .* does not exist",
        "put the authority's certificate there, or name its file with sslrootcert=; the system's"
        " authorities are sslrootcert=system",
    ),
    (
        r"server does not support SSL, but SSL was required",
        "switch it on there: ssl = on in postgresql.conf, with ssl_cert_file and ssl_key_file",
    ),
    (
        r"connection requires a valid client certificate",
        "name one that the server trusts with sslcert= and its key with sslkey=",
    ),
    (
        r"certificate present, but not private key file",
        "name the certificate's key with sslkey=",
    ),
    (r'private key file "[^"]*" has group or world access', "chmod 600 it"),
    (r"no pg_hba.conf entry for .*, no encryption", "it may want TLS: sslmode=verify-full"),
)


def with_advice(text: str) -> str:
    """
    Return the error of a failed connection, with advice where there is some.
    """
    for pattern, advice in _ADVICE:
        if re.search(pattern, text):
            return f"{text} ({advice})"
    return text
