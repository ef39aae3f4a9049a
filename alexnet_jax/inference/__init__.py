"""A trained network: opening it, and what it says of images."""
