"""Tools that look into networks: derivative checking."""
