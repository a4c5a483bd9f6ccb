"""impfedctl: the command line that talks to a running node over its control socket."""
