"""Documents that point at each other: their graph, and pairs of their segments to be learned together."""
