"""Each door against the real thing behind it."""
