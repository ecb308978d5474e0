"""From the spool of a service engine into the archive of a node: what is offered, believed, fetched and kept."""
