"""Remembers: the database, its schema and the unit of work. It decides nothing and sends nothing."""
