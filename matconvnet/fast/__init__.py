"""The fast path: rewrites of a graph, and programs that run one without Python in between."""
