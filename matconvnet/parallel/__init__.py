"""Parameter servers: derivatives summed over workers while the backward pass still runs."""
