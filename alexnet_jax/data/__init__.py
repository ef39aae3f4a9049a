"""Images from disk to batches of uint8. Imports no jax: what runs here may run in another process."""
