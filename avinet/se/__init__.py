"""Floor 4: the service engine: it enrols, holds its tunnels, obeys signed requests, drives its data plane, reports."""
