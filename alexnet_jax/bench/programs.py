"""The compiled programs of a config: training, evaluation and prediction steps, for devices that need not be there."""

import re
from typing import Any

import jax

from alexnet_jax import optim, sharding, steps, trainer
from alexnet_jax.bench import hlo, measuring
from alexnet_jax.run_config import Config

NAMES = ("train", "eval", "predict")
PARTS = {  # part of a step -> pattern of the scopes in the compiled program; the first that matches counts
    "copies": "^/*$",  # no scope: an operation of the compiler's own, most of them before convolutions
    "collectives": r"/exchange/|psum|pmax|/reduce_scatter|/all_gather|/all_to_all",
    "normalization": r"/lrn/|/map_norm/",
    "pooling": r"/pool/",
    "dropout": r"/dropout/",
    "optimizer": r"/optimizer/",
    "images": r"/images/",
    "activation": r"/activation/",
    "convolution": r"/conv\d/",
    "fully connected": r"/fc\d/",
}


def lower(name: str, config: Config, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """One of NAMES, ready to be compiled for `mesh`. Nothing is put on a device. Test-time programs take one view."""
    measuring.require_one_program(config)
    count = config.train.batch_size if name == "train" else config.train.eval_batch_size
    batch, statistics = trainer.abstract_inputs(config, mesh, count)
    state = steps.abstract_state(config, mesh)
    if name == "eval":
        return steps.make_eval_step(config, mesh, views=1).lower(state.params, batch, statistics)
    if name == "predict":
        return steps.make_log_predict_step(config, mesh, views=1).lower(state.params, batch.image, statistics)
    rates = optim.rates(config, state.params, 0, optim.Validation())
    place = jax.NamedSharding(mesh, sharding.DEVICES)
    votes = jax.ShapeDtypeStruct((mesh.size,), bool, sharding=place)
    return steps.make_train_step(config, mesh, steps_per_epoch=1).lower(state, batch, rates, statistics, votes)


def planned_memory(program: jax.stages.Compiled) -> int:
    """The most bytes that the program takes on a device, by the compiler's plan."""
    plan: Any = program.memory_analysis()
    return plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def read(program: jax.stages.Compiled) -> hlo.Program:
    """The text of a compiled program, read."""
    text = program.as_text()
    assert text is not None, "a compiler that shows no program"
    return hlo.Program(text, tpu=":T(" in text.partition("\n")[0])


def part(scope: str) -> str:
    """The part of a step, of PARTS or "other", that an operation with this scope (`op_name`) belongs to."""
    path = "/" + re.sub(r"[()/]+", "/", scope) + "/"
    return next((name for name, pattern in PARTS.items() if re.search(pattern, path)), "other")
