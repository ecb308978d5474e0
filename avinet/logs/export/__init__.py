"""Floor 3: records of requests on their way to collectors that are not ours.

In come lines and what is missing among them, out go batches: one at a time to each destination, as fast as it takes
them. What there is no room for is counted, and told.
"""
