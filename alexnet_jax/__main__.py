"""The command `alexnet`, also `python -m alexnet_jax`. A subcommand's module is imported only when it is called."""

import argparse
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
        "import": ("import_weights", "make a run from PyTorch, Caffe, ONNX or safetensors weights"),
        "export": ("export_weights", "write a network to safetensors, PyTorch, ONNX or StableHLO"),
    },
    "The paper": {
        "facts": ("facts", "compare a config's numbers with the paper's"),
        "reproduce": ("reproduce", "test the paper's claims by training"),
    },
    "Speed": {
        "bench": ("bench", "measure input, training steps and scaling"),
    },
}
MODULES = {name: module for commands in COMMANDS.values() for name, (module, _) in commands.items()}
EPILOG = "`alexnet COMMAND --help` describes a command; `alexnet --print-completion bash` completes them in a shell."


def main(argv: list[str] | None = None) -> None:
    """Run the subcommand that `argv` (default: the process's arguments) names, and exit with its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else ""
    start_up.prepare_process()
    if name == "train":  # its flags are absl's: configs are overridden as --config.KEY=VALUE
        from alexnet_jax import main as training

        training.start(["alexnet train", *argv[1:]])
    elif name in MODULES:
        arguments = _subparser(name).parse_args(argv[1:])
        sys.exit(errors.exit_code(lambda: arguments.run(arguments)))
    elif name == "--print-completion":
        import shtab

        shells = argparse.ArgumentParser(prog="alexnet --print-completion")
        shells.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
        print(shtab.complete(_whole_parser(), shells.parse_args(argv[1:]).shell))
    else:
        parser = argparse.ArgumentParser(
            prog="alexnet",
            usage="alexnet COMMAND ...",
            description=f"AlexNet (2012) in JAX, split over two devices.\n\n{_overview()}",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--version", action="version", version=f"alexnet_jax {importlib.metadata.version('alexnet_jax')}"
        )
        parser.add_argument("command", metavar="COMMAND", choices=MODULES, help=argparse.SUPPRESS)
        parser.parse_args(argv)


def _overview() -> str:
    width = max(map(len, MODULES)) + 2
    return "\n".join(
        "\n".join([f"{heading}:", *(f"  {name:{width}}{about}" for name, (_, about) in commands.items())])
        for heading, commands in COMMANDS.items()
    )


def _add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    module = importlib.import_module(f"alexnet_jax.commands.{MODULES[name]}")
    module.add_arguments(parser)
    if hasattr(module, "run"):  # else the arguments say which function it is
        parser.set_defaults(run=module.run)


def _subparser(name: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"alexnet_jax.commands.{MODULES[name]}")
    parser = argparse.ArgumentParser(
        prog=f"alexnet {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_arguments(parser, name)
    return parser


def _whole_parser() -> argparse.ArgumentParser:
    """All subcommands with their options, for shell completion."""
    parser = argparse.ArgumentParser(prog="alexnet")
    parser.add_argument("--version", action="store_true")
    subparsers = parser.add_subparsers()
    for commands in COMMANDS.values():
        for name, (_, about) in commands.items():
            _add_arguments(subparsers.add_parser(name, help=about), name)
    return parser


if __name__ == "__main__":
    main()
