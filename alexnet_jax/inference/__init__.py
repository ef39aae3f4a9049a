"""A trained network: opening it, and what it computes for images."""
