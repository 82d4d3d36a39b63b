"""Networks: two ways to write a graph of layers, with its parameters."""
