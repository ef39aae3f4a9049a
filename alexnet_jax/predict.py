"""The five best classes of images: python -m alexnet_jax.predict --workdir DIR IMAGE..."""

import argparse
import sys
from pathlib import Path

import numpy as np

from alexnet_jax import checkpoint, errors, sharding, steps, workdir
from alexnet_jax.data import images
from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="centre crop, or the paper's ten views")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    arguments = parser.parse_args()
    sys.exit(errors.exit_code(lambda: run(arguments)))


def run(arguments: argparse.Namespace) -> None:
    finished = workdir.open_finished(arguments.workdir)
    config = finished.config
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    _, params = checkpoint.restore_params(
        arguments.workdir / workdir.CHECKPOINTS, steps.abstract_state(config, mesh).params
    )
    predict_step = steps.make_predict_step(config, mesh, arguments.views)
    statistics = sharding.put(finished.statistics, mesh, sharding.REPLICATED)
    failed = []
    for path in arguments.images:
        try:
            pixels, _ = stored_pixels(path.read_bytes(), config.data.size)
        except (images.CorruptImage, OSError) as error:
            failed.append(f"{path}: {error}")
            continue
        batch = sharding.put(pixels[None], mesh, sharding.EXAMPLES)
        probabilities = np.asarray(predict_step(params, batch, statistics))[0, : len(finished.classes)]
        print(path)
        for label in np.argsort(-probabilities, kind="stable")[:5]:
            print(f"  {probabilities[label]:7.2%}  {finished.classes[label]}")
    if failed:
        raise UserError(f"{len(failed)} of {len(arguments.images)} images cannot be read: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
