"""The numbers of RFC 4254: its messages, and why a channel is not opened."""

from __future__ import annotations

GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
CHANNEL_OPEN, CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE = 90, 91, 92
CHANNEL_WINDOW_ADJUST, CHANNEL_DATA, CHANNEL_EXTENDED_DATA = 93, 94, 95
CHANNEL_EOF, CHANNEL_CLOSE, CHANNEL_REQUEST = 96, 97, 98
CHANNEL_SUCCESS, CHANNEL_FAILURE = 99, 100

PROHIBITED, CONNECT_FAILED, UNKNOWN_KIND, SHORTAGE = 1, 2, 3, 4
STDERR = 1
"""The only kind of extended data."""

KEEPALIVE = b"keepalive@openssh.com"
"""The global request that asks for a sign of life; whatever the answer is, it is one."""
DRAIN = b"drain@avinet"
"""The same, asked by an end that measures the round trip: the peer closes its windows too until it has measured it."""
