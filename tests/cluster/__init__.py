"""The cluster: who lives, who owns what, letters between nodes."""
