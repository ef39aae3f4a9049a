"""Networks for `alexnet reproduce`: the paper's at the size that a machine can bear."""
