"""Hypothesis for these tests: the same examples in every run, as many as the whole suite has time for."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "broker", max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("broker")
