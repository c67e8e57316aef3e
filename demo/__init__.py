"""The main job on real parts, shown: a responder in an encrypted room and two people with OpenPGP mail."""
