"""A secure management plane for fleets of load-balancer nodes, in which every connection is dialled by the node.

The packages are floors; imports go down only. Ground: the modules beside this file. Values: `trust`, `wire`, `flow`.
Shells: `ssh`, `store`, `dataplane`, `rest`. Abilities: `enrolment`, `config`, `telemetry`, `cloud`. Roles:
`controller`, `se`. Doors: `cli`, `taps`.
"""

__version__ = "0.1.0"
