"""The control socket and impfedctl."""
