"""The archive of a node: which segments it has, what of them a query needs, and what it keeps."""
