"""Questions to the archive: from the closed model to an answer, in a process beside the node."""
