"""The Matrix door: the encrypted session, its identity, the group's room. Knows no mail and no OpenPGP."""
