"""The safe: opens and seals OpenPGP messages with GnuPG. Knows no mail and no Matrix."""
