"""Floor 3: where service engines come from: one driver interface, and the driver that starts them as local processes.

An image bundle and a claim flow in, a running instance comes out; what runs on it is the instance's own affair.
"""
