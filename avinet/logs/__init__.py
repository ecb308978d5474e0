"""Floor 3: request logs: spooled and sealed into segments on a service engine, archived and queried on a node.

Lines flow in from the data plane, segments lie in the archive, and answers to queries come out. All that reads or
writes Parquet runs in processes of its own.
"""
