"""Real servers from wheels, fakes of the ports, and contract suites for tests."""
