"""Decides: records, rules and errors. Standard library only; no await, no input or output."""
