"""Who of the nodes is alive, who owns what, and how nodes hand work to each other."""
