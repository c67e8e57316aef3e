"""Carries: the doors (mail, Matrix), the safe (OpenPGP) and the one path between them."""
