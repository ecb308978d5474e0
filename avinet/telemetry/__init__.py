"""Floor 3: reports: what a service engine says of its data plane, and what a node makes of it.

Health and traffic of the data plane flow in on the service engine, reports go through the tunnel, and the latest state
of each service engine comes out on the node.
"""
