"""For all tests."""

import signal

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("warren", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("warren")

# A shell that starts us in the background has us ignore Ctrl-C, and so would every program that a test sends it
# to: whoever runs the tests, programs under test begin with the signal as a terminal gives it to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
