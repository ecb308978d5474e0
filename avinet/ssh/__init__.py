"""Floor 2: the tunnel. In: the bytes of a TCP connection. Out: an authenticated one, with named services on both ends.

The lower half carries packets and knows who is there: `strings` (the types of RFC 4251), `policy` (what is offered, and
how much), `ciphers` and `packets` (how a packet is sealed and framed), `negotiation` and `exchange` (key exchange),
`phases` (which message may come when), `transport` (RFC 4253), `auth` (RFC 4252), `gate` and `server` (who is let in),
`login` (how one gets in). The upper half is a service on top of it, made once both ends know each other: `channel`
(one channel as a Twisted transport), `opening` and `connection` (RFC 4254: all of them), `windows` (how large theirs
are), `services` (names), `tunnel` (names and liveness), `session` and `sftp` (what an engine's SSH service can do).
"""
