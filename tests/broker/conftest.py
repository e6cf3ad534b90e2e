"""Hypothesis for these tests, the same examples in every run, as many as there is time for; and a disk that is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "broker", max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("broker")


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets this process write files of so many bytes, as a full disk does; 0 lifts it."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size or before[0], before[1]))

    yield limit
    limit(0)
