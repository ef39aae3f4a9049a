"""Configs in and out: from the ConfigDict of a file, from and to JSON, with each wrong key named."""

import difflib
import runpy
from pathlib import Path

import pydantic
from ml_collections import ConfigDict

from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.layers import Section


def load(name: str) -> ConfigDict:
    """What the config file FILE, or FILE:ARGUMENT, returns."""
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise UserError(f"there is no config file {path}; configs/ has some, and paths start from this folder")
    try:
        file = runpy.run_path(path)
        if "get_config" not in file:
            raise UserError("it has no get_config")
        return file["get_config"](argument) if argument else file["get_config"]()
    except Exception as error:  # of the file's own code
        raise UserError(f"the config file {name} does not work: {error}") from error


def parse(values: ConfigDict) -> Config:
    """The config of a config file. Raises UserError that names each key that is unknown, missing or wrong."""
    return _validated(lambda: Config.model_validate(values.to_dict()))


def from_json(text: str) -> Config:
    """The config that `to_json` wrote."""
    return _validated(lambda: Config.model_validate_json(text))


def to_json(config: Config) -> str:
    return config.model_dump_json(indent=2) + "\n"


def _validated(make) -> Config:
    try:
        return make()
    except pydantic.ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise UserError(f"the config is not valid: {problems}") from None


def _problem(detail) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key.split(".")[-1], _names(Config), n=1)
        return f"unknown key config.{key}" + (f" (did you mean {near[0]}?)" if near else "")
    if detail["type"] == "missing":
        return f"missing key config.{key}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"config.{key}={detail['input']!r}: {detail['msg']}"


def _names(section) -> list[str]:
    names = []
    for name, field in section.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += _names(field.annotation)
    return names
