"""Files of networks, in our own format and in those of others."""
