"""Fixtures for all tests: real servers, fakes and clocks from the testkit."""

pytest_plugins = ["anabranch_testkit.fixtures"]
