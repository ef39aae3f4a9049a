"""Fine-tuning on your own images: the layers of a trained or imported network, with a new fc8.

    alexnet train --config finetune:RUN --config.data.directory=DATA --workdir runs/fine

RUN is the workdir that provides architecture, augmentation, mean image and weights. `alexnet prepare` ends by printing
the flags that DATA needs. The first two layers, the most general ones, stay frozen; the others learn at a tenth of
fc8's rate.
"""

from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax.configs import paper
from alexnet_jax.run import config_files

FROZEN, SLOW = ("conv1", "conv2"), ("conv3", "conv4", "conv5", "conv6", "fc6", "fc7")


def get_config(run: str = "") -> ConfigDict:
    file = Path(run, "config.json")
    if not run or not file.is_file():
        problem = f"{run} is not a workdir: it has no config.json" if run else "no network is given"
        raise ValueError(f"{problem}; write --config finetune:RUN, where RUN is the folder of a run or an import")
    config = paper.get_config()
    source = config_files.from_json(file.read_text())
    config.model, config.augment = ConfigDict(source.model.model_dump()), ConfigDict(source.augment.model_dump())
    config.data.size = source.data.size
    config.train.compute_dtype = source.train.compute_dtype
    layers = [name for name in (*FROZEN, *SLOW) if config.model[name]]
    config.start.update(workdir=run, layers=tuple(layers))
    config.data.statistics_file = str(Path(run, "statistics.npz"))
    for name in layers:
        multiplier = 0.0 if name in FROZEN else 0.1
        config.optim.layers[name] = paper.layer(lr_multipliers=((0, multiplier, multiplier),))
    config.optim.learning_rate = 0.01  # of fc8
    config.optim.schedule.update(name="steps", boundaries_epochs=(14, 18))
    config.augment.shared_by = 1
    config.train.update(batch_size=32, epochs=20, log_every_steps=20, eval_batch_size=32, save_every_steps=500)
    return config
