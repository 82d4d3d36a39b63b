"""Training: the one loop, its options, update rules, statistics and files."""
