"""The spool of a service engine: records as they come, made durable, sealed into segments, kept within a cap."""
