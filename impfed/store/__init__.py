"""Durable records behind one interface: SQLite, and memory as the reference model."""
