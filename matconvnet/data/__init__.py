"""Image databases, the files that they come from and the batches that a trainer draws from them."""
