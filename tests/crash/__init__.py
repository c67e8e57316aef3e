"""``make crash``: the bridge is killed, again and again, and nothing is lost. ``tests.crash.__main__`` says how."""
