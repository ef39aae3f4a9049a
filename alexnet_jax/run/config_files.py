"""Config files: finding them by name or path, running them, and parsing what they return into a `Config`."""

import difflib
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.run_config import Config

INSTALLED = Path(__file__).parents[1] / "configs"  # the files of configs/, wherever the package is installed


def find(name: str) -> Path:
    """The config file `name`: a path, or an installed one, such as `digits` or `configs/digits.py`; or UserError."""
    if Path(name).is_file():
        return Path(name)
    installed = {path.stem: path for path in sorted(INSTALLED.glob("[!_]*.py"))}
    stem = name.removeprefix("configs/").removesuffix(".py")
    if stem not in installed:
        raise UserError(f"there is no config file {name}; give the path of one, or one of {', '.join(installed)}")
    return installed[stem]


def functions(name: str) -> dict[str, Any]:
    """The names that the config file `name` defines, `get_config` among them. Raises UserError if it cannot run."""
    path = find(name)
    try:
        defined = runpy.run_path(str(path))
    except Exception as error:  # whatever the file raises
        raise UserError(f"the config file {path} fails: {type(error).__name__}: {error}") from error
    if "get_config" not in defined:
        raise UserError(f"the config file {path} has no get_config(); it must return an ml_collections.ConfigDict")
    return defined


def load(name: str, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """What `get_config` of FILE or FILE:ARGUMENT returns, with `changes` of keys. Raises UserError if that fails."""
    file, colon, argument = name.partition(":")
    get_config = functions(file)["get_config"]
    try:
        values = get_config(argument) if colon else get_config()
    except Exception as error:  # whatever the file raises
        raise UserError(f"the config {name} fails: {error}") from error
    try:
        values.lock().update_from_flattened_dict(changes or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # ConfigDict suggests the nearest key
        problem = re.sub(r" Other fields present: .*?(?=\nDid you mean|$)", "", str(error.args[0]), flags=re.DOTALL)
        raise UserError(f"the config {name} cannot be changed so: {problem.replace(chr(10), ' ')}") from None
    return values


def parse(values: ConfigDict) -> Config:
    """The parsed config. Raises UserError that names every key that is unknown, missing or of a wrong value."""
    return _validated(lambda: Config.model_validate(values.to_dict()))


def from_json(text: str) -> Config:
    """The config that `to_json` wrote. Raises UserError as `parse` does."""
    return _validated(lambda: Config.model_validate_json(text))


def to_json(config: Config) -> str:
    return config.model_dump_json(indent=2) + "\n"


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """The config with other values: `changed(config, data={"max_bad": 0.1})`. Raises UserError as `parse` does."""
    values = config.model_dump()
    for section, keys in sections.items():
        values[section] |= keys
    return _validated(lambda: Config.model_validate(values))


def _validated(make: Callable[[], Config]) -> Config:
    try:
        return make()
    except pydantic.ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise UserError(f"the config is not valid: {problems}") from None


def _problem(detail: Any) -> str:
    parts = (str(part) for part in detail["loc"])
    key = ".".join(part for part in parts if not part.endswith(("float", "]")))  # without kinds of number or "he"
    if detail["type"] == "extra_forbidden":
        sections = Config.model_json_schema()["$defs"].values()
        names = [name for section in (*sections, {"properties": Config.model_fields}) for name in section["properties"]]
        near = difflib.get_close_matches(key.split(".")[-1], names, n=1)
        return f"unknown key config.{key}" + (f" (did you mean {near[0]}?)" if near else "")
    if detail["type"] == "missing":
        return f"missing key config.{key}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"config.{key}={detail['input']!r}: {detail['msg']}"
