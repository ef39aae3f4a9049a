"""The command `alexnet`, also `python -m alexnet_jax`. A subcommand's module is imported only when it is called."""

import argparse
import functools
import importlib
import importlib.metadata
import sys

from alexnet_jax import errors
from alexnet_jax.run import start_up

COMMANDS = {  # heading -> subcommand -> (module of commands/, what it does)
    "Data": {
        "prepare": ("prepare", "pack images for training"),
        "verify-data": ("verify_data", "check that data is intact and complete"),
    },
    "Training": {
        "train": ("train", "train a network, or resume a run"),
        "runs": ("runs", "list runs and where their configs differ"),
        "verify-run": ("verify_run", "take a run's steps again and compare every number"),
    },
    "Using a trained network": {
        "evaluate": ("evaluate", "measure its errors, or those of an ensemble"),
        "predict": ("predict", "classify images"),
        "features": ("features", "extract feature vectors, or find similar images"),
        "probe": ("probe", "compare its features with HOG by linear classifiers"),
        "report": ("report", "write an HTML report with the paper's figures"),
        "serve": ("serve", "serve a web page that classifies and explains images"),
    },
    "Weights of other programs": {
        "identify": ("identify", "say which AlexNet a file holds, and whether it looks trained"),
        "import": ("import_weights", "make a run from PyTorch, Caffe, ONNX or safetensors weights"),
        "export": (
            "export_weights",
            "write a network to safetensors, PyTorch, ONNX or StableHLO, or for the Hugging Face Hub",
        ),
    },
    "The paper": {
        "facts": ("facts", "compare a config's numbers with the paper's"),
        "reproduce": ("reproduce", "test the paper's claims by training"),
    },
    "This machine": {
        "doctor": ("doctor", "find what keeps JAX from its devices, or slows it down"),
        "bench": ("bench", "measure input, training steps and scaling"),
    },
}
MODULES = {name: module for commands in COMMANDS.values() for name, (module, _) in commands.items()}
EPILOG = "`alexnet COMMAND --help` describes a command; `alexnet --print-completion bash` completes them in a shell."


def main(argv: list[str] | None = None) -> None:
    """Run the subcommand that `argv` (default: the process's arguments) names, and exit with its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    start_up.prepare_process()
    make_parser = functools.partial(argparse.ArgumentParser, formatter_class=argparse.RawDescriptionHelpFormatter)
    if argv[:1] == ["train"]:  # its flags are absl's: configs are overridden as --config.KEY=VALUE
        from alexnet_jax.main import start

        start(["alexnet train", *argv[1:]])
    elif argv and argv[0] in MODULES:
        arguments = _define(argv[0], make_parser(prog=f"alexnet {argv[0]}")).parse_args(argv[1:])
        sys.exit(errors.exit_code(lambda: arguments.run(arguments)))
    elif argv[:1] == ["--print-completion"]:
        _print_completion(argv[1:])
    else:
        width = max(map(len, MODULES)) + 2
        overview = ["AlexNet (2012) in JAX, split over two devices.\n"]
        for heading, commands in COMMANDS.items():
            overview += [f"{heading}:", *(f"  {name:{width}}{about}" for name, (_, about) in commands.items())]
        description = "\n".join(overview)
        parser = make_parser(prog="alexnet", usage="alexnet COMMAND ...", description=description, epilog=EPILOG)
        version = f"alexnet_jax {importlib.metadata.version('alexnet_jax')}"
        parser.add_argument("--version", action="version", version=version)
        parser.add_argument("command", metavar="COMMAND", choices=MODULES, help=argparse.SUPPRESS)
        parser.parse_args(argv)


def _define(name: str, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give the parser of a subcommand its description and arguments, and the function to run."""
    module = importlib.import_module(f"alexnet_jax.commands.{MODULES[name]}")
    parser.description = module.__doc__
    parser.set_defaults(run=getattr(module, "run", None))  # None: an argument says which it is, or main.start runs
    module.add_arguments(parser)
    return parser


def _print_completion(argv: list[str]) -> None:
    """Print the completion script of the shell that `argv` names."""
    import shtab

    parser = argparse.ArgumentParser(prog="alexnet")
    subparsers = parser.add_subparsers()
    for commands in COMMANDS.values():
        for name, (_, about) in commands.items():
            _define(name, subparsers.add_parser(name, help=about))
    shells = argparse.ArgumentParser(prog="alexnet --print-completion")
    shells.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    print(shtab.complete(parser, shells.parse_args(argv).shell))


if __name__ == "__main__":
    main()
