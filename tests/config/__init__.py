"""The configuration file: what is read, and how everything wrong with it is told."""
