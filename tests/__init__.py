"""The tests. Nothing is judged by how long it takes: machines are busy."""

from hypothesis import HealthCheck, settings

settings.register_profile("avinet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("avinet")
