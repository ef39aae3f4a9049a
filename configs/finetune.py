"""Own images with a network that has learned from others: a run's, or imported weights. A new fc8, the rest as it was.

    python -m alexnet_jax.main --config configs/finetune.py:RUN --config.data.directory=DATA --workdir runs/fine

RUN is a workdir; it gives architecture, augmentation and mean image. `prepare` ends with the flags that DATA needs.
The first two layers stay as they are, the others learn at a tenth of fc8's rate: what is general comes first.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax.configs import paper

FROZEN, SLOW = ("conv1", "conv2"), ("conv3", "conv4", "conv5", "conv6", "fc6", "fc7")


def get_config(run: str = "") -> ConfigDict:
    file = Path(run, "config.json")
    if not run or not file.is_file():
        what = f"{run} is no run, it has no config.json" if run else "which run's network?"
        raise ValueError(f"{what}; write --config configs/finetune.py:RUN, with the folder of a run or an import")
    config = paper.get_config()
    there = json.loads(file.read_text())
    config.model, config.augment = (ConfigDict(tuples(there[name])) for name in ("model", "augment"))
    config.data.size = there["data"]["size"]
    config.train.compute_dtype = there["train"]["compute_dtype"]
    known = [name for name in (*FROZEN, *SLOW) if config.model[name]]
    config.start.update(workdir=run, layers=tuple(known), statistics=True)
    rates = {name: 0.0 if name in FROZEN else 0.1 for name in known}
    config.optim.layers = ConfigDict({name: paper.layer(lr_multipliers=((0, rate),)) for name, rate in rates.items()})
    config.optim.learning_rate = 0.01  # of fc8
    config.optim.schedule.update(name="steps", boundaries_epochs=(14, 18))
    config.augment.shared_by = 1
    config.train.update(batch_size=32, epochs=20, log_every_steps=20, eval_batch_size=32, save_every_steps=500)
    return config


def tuples(value):
    """JSON knows lists only."""
    if isinstance(value, dict):
        return {name: tuples(of) for name, of in value.items()}
    return tuple(tuples(of) for of in value) if isinstance(value, list) else value
