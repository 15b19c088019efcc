"""What all tests share. Modules beside this file (http1_cases) can be imported by every test."""

import atexit
import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=60, deadline=None)
settings.register_profile(
    "thorough", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Where servers put their control sockets: those that tests kill leave them behind.
os.environ["RUNTIME_DIRECTORY"] = tempfile.mkdtemp(prefix="kernelq-tests-")
atexit.register(shutil.rmtree, os.environ["RUNTIME_DIRECTORY"], ignore_errors=True)
