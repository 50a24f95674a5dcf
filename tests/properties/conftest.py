from hypothesis import HealthCheck, settings

# No example database: tests leave nothing in the work tree. No deadline: machines are shared.
settings.register_profile(
    "tradeserve", database=None, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tradeserve")
