"""The storage suite, on SQLite and on PostgreSQL."""
