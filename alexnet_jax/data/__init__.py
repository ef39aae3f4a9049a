"""From image files to batches of uint8. Imports no jax, so that any of it can run in a process of its own."""
