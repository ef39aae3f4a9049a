"""Loss and errors of a trained network: python -m alexnet_jax.evaluate --workdir DIR [--views 1|10]

Writes them to DIR/evaluation.json too: loss (nats), top1_error and top5_error (fractions), count, views, split,
step, and bad_records, how many images were left out because their records are damaged, if any.
"""

import argparse
import json
import sys
from pathlib import Path

from alexnet_jax import checkpoint, config_files, errors, sharding, steps, train, workdir
from alexnet_jax.data.datasets import open_dataset, split_of
from alexnet_jax.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_jax.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="centre crop, or the paper's ten views")
    parser.add_argument("--split", help="of the data (default: the config's eval_split)")
    parser.add_argument("--max_bad", type=float, help="share of records that may be bad (default: the config's)")
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    arguments = parser.parse_args()
    sys.exit(errors.exit_code(lambda: run(arguments)))


def run(arguments: argparse.Namespace) -> None:
    finished = workdir.open_finished(arguments.workdir)
    config = finished.config
    if arguments.max_bad is not None:
        values = config.model_dump(mode="json")
        values["data"]["max_bad"] = arguments.max_bad
        config = config_files.from_json(json.dumps(values))
    directory = arguments.data or config.data.directory
    if config.data.source == "prepared" and not Path(directory).is_dir():
        raise UserError(f"the data {directory} is not there; give its folder as --data DIR")
    dataset = open_dataset(config.data.source, directory, config.data.size, config.model.num_classes)
    if dataset.classes != finished.classes:
        raise UserError(f"the network was trained on other classes than those of {directory}; give its own --data")
    split = arguments.split or config.data.eval_split
    images = split_of(dataset, split, "--split")
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    step, params = checkpoint.restore_params(
        arguments.workdir / workdir.CHECKPOINTS, steps.abstract_state(config, mesh).params
    )
    eval_step = steps.make_eval_step(config, mesh, arguments.views)
    statistics = sharding.put(finished.statistics, mesh, sharding.REPLICATED)
    result = train.evaluate(eval_step, params, statistics, images, config, mesh)
    assert result is not None  # nothing asked it to stop
    described = result | {"views": arguments.views, "split": split, "step": step}
    (arguments.workdir / "evaluation.json").write_text(json.dumps(described, indent=2) + "\n")
    left_out = f", {result['bad_records']} left out as damaged" if "bad_records" in result else ""
    print(f"split {split}, {arguments.views} view(s), step {step}, {result['count']} images{left_out}")
    print(f"loss         {result['loss']:.4f}")
    for name in ("top1", "top5"):
        error = result[f"{name}_error"]
        wrong = round(error * result["count"])
        print(f"{name[:-1]}-{name[-1]} error  {error:.2%}  ({wrong} of {result['count']}; {1 - error:.2%} right)")


if __name__ == "__main__":
    main()
