"""Pure functions and single modules."""
