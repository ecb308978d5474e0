"""The operators' REST API, a file for each kind of resource: what the requests do, and their routes."""
