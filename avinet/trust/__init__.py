"""Floor 1: whom to believe: root CA and node identities, keys, HTTP message signatures, the image bundle, TLS contexts.

Keys and bytes flow in, certificates, signatures and verdicts come out. No I/O but the files of a domain; no Twisted but
in `tls`; no clock: the time is a parameter.
"""
