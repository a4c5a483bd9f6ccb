"""Everything that touches a socket, on Twisted."""
