"""Floor 3: what service engines should run: documents in, compiled versions out to each, acknowledgements back.

Node side: `documents` are changed by operators, `compile` merges those that apply to a service engine, `desired` keeps
the version that each should run, `distribute` brings it there, `states` remembers what each said. Side of the service
engine: `apply`.
"""
