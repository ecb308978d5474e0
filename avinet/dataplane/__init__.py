"""Floor 2: the load balancer that a service engine drives: one interface; HAProxy, and the built-in proxy behind it.

Compiled configurations flow in, health and traffic come out.
"""
