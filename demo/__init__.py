"""The demonstration: everything on one machine, shown step by step."""
