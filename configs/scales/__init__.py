"""Networks for `python -m alexnet_jax.reproduce`: the paper's at the size that a machine can bear."""
