"""Floor 3: request logs: spooled and sealed into segments on a service engine, archived and queried on a node.

Lines flow in from the data plane to `spool`, and from there to collectors by `export`; what is significant comes at
once (`live`). A node fetches segments (`pull`) into its `archive`, and answers what is asked of them (`query`). All
that reads or writes Parquet runs in processes of its own.
"""
