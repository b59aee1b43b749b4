"""Fixtures for all tests: real servers, fakes and clocks from the testkit.

Hypothesis runs from fixed seeds unless it is told otherwise, so that a change lands or fails by
what it says and not by luck; `HYPOTHESIS_PROFILE=explore` looks for new examples.
"""

import os

from hypothesis import HealthCheck, settings

# gRPC's fork handlers can abort a child between fork and exec, and tests start many; nobody uses
# a channel on the far side of a fork. Read when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

pytest_plugins = ["anabranch_testkit.fixtures"]

# No deadline per example: the machines that run this are shared, and a benchmark measures time.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
