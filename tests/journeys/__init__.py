"""Whole ways through the bridge, from a person to a person."""
