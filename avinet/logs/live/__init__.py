"""What is significant of request logs, and comes at once."""
