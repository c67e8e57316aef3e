"""Talks: the command line, the texts, the configuration, and the wiring of everything else."""
