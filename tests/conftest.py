"""Hypothesis profiles by HYPOTHESIS_PROFILE (CI=... means `ci`), and no stray event loop."""

import asyncio
import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "tests.canaries", "tests.faults.plugin"]

# Shared machines pause: no deadline per example, and slow data generation is no finding.
calm = [HealthCheck.too_slow]
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=calm)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,  # a merge is judged by the same examples everywhere
    print_blob=True,
    suppress_health_check=calm,
)
settings.register_profile(
    "nightly", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=calm
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if "CI" in os.environ else "dev")
)

# The looptime plugin asks the policy for a loop in front of tests without one, too. Unless told
# that there is none, the policy makes one that nobody closes: a ResourceWarning in a later test.
asyncio.set_event_loop(None)
