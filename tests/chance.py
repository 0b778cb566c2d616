"""hypothesis on a machine that is busy: how long an example takes says nothing. Importing this is enough."""

from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
