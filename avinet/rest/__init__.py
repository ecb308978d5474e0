"""Floor 2: HTTP/1.1 as all doors speak it: routes as data, RFC 9457 problems, limits, one client, byte pipes.

Routes and requests of a door flow in, a protocol factory comes out, for a TCP port, a UNIX socket or a service of the
tunnel; `Client` is the other end. A door knows its routes and no others.
"""
