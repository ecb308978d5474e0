"""Floor 2: what the domain of trust remembers: one small interface with etcd's meaning, and SQLite behind it.

Bytes under bytes, revisions, one compare-and-set transaction, watches, leases. What the bytes mean is decided above.
"""
