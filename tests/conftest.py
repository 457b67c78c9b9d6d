"""For all tests."""

import signal

# A shell that starts us in the background has us ignore Ctrl-C, and so would every program that a test sends it
# to: whoever runs the tests, programs under test begin with the signal as a terminal gives it to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
