"""The tests, one folder for each room, and real servers in ``tests.interop``."""
