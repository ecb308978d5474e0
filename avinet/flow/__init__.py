"""Floor 1: the rules by which bytes flow and a silent peer is given up: pure, without I/O and without a clock.

In: counts of bytes, messages of a peer, seconds. Out: what may be sent, what is to be granted, what to do next.
"""
