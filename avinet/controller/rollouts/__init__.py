"""Roll-outs on a node: what is seen of service engines flows in, and steps of the roll-outs come out."""
