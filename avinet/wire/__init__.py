"""Floor 1: every message between service engine, node and operator: frozen, validated, versioned, one family a file.

Bytes from a peer go in through `decode`, values come out; `encode` is the way back. No I/O, no Twisted.
"""
