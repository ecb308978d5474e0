"""Floor 5: `avictl`, a synchronous client of a node's REST API over its UNIX socket; one file a family of verbs."""
