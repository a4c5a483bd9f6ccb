"""The store: one contract, two implementations, and what only the database can get wrong."""
