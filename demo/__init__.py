"""The main job on one machine, with real processes, keys, tunnels and a load balancer; see `bin/demo`."""
