"""Typed TOML configuration: every problem found at once, each with file, key and suggestion."""
