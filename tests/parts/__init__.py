"""Real parts to test against and to show: servers of their own on loopback, and people who use them.

Plain classes and context managers, used by the fixtures of ``tests/conftest.py`` and by the demo alike.
"""
