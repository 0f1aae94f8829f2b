"""Side-by-side benchmarks: the bus, its peers, and the raw libraries doing the same work."""
