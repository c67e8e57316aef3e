"""The command line: one module a topic. What the commands do is done by storage and bridges."""
