"""A few thousand photos of your own: the paper's network on crops of 128x128, at a chosen width.

    alexnet prepare --source folder --input PHOTOS --size 144 --output data/photos
    alexnet train --config photos --config.data.directory=data/photos --workdir runs/photos

PHOTOS holds train/ and val/, each with one folder of images per class; name their number if it is not 10, with
--config.model.num_classes=N. `photos:0.25` has a quarter of the paper's kernels and units, `photos:1` all of them; the
default is half. Strides, kernels, pooling, normalization and connections are the paper's, so that the maps are 31 ->
pool 15 -> pool 7 -> pool 3.

On ten breeds of dogs, 9,023 photos, the default has 38.6 % top-1 error after 53 minutes of processor time, and
`photos:1` has 37.7 % after 156; two runs of each do not show a difference (docs/reproduce.md, "What to train first").
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import digits, paper, variants
from alexnet_jax.configs._later import he


def get_config(width: str = "0.5") -> ConfigDict:
    """Return the config at `width` times the paper's number of kernels and units."""
    config = paper.get_config()
    config.model.update(image_size=128, num_classes=10)
    variants.width(config, width)
    he(config)  # so few images pass too few steps for the paper's start, in which signals fade from layer to layer
    digits.grey_levels(config)
    config.optim.schedule.update(name="steps", boundaries_epochs=(40, 52))
    config.augment.colour_noise_scale = "sqrt_eigenvalue"
    config.data.size = 144
    config.train.update(batch_size=64, epochs=60, eval_batch_size=128, eval_every_epochs=5, log_every_steps=100)
    return config
