"""The mail door: SMTP and LMTP in, SMTP out, and the MIME between them. Knows no Matrix and no OpenPGP."""
