"""Floor 4: pulls of request logs: ordered by operators, on several service engines at once, past restarts."""
