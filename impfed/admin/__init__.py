"""What people operate: the User Options page, the node's own address, and its ad-hoc commands."""
