"""Serve a web page that classifies images and shows the network at work: alexnet serve --workdir DIR

Drop, paste or photograph an image, and see its classes, the towers at work, where the evidence lies, what the units
respond to, and the training images nearest to it. `alexnet export --explorer` writes the same page as files, which
need no server. Programs use POST /api/predict; /openapi.json describes it. Only this machine can reach the page unless
--host says otherwise. Ctrl-C stops the server.
"""

import argparse
import importlib.util
import math
import signal
import socket
from pathlib import Path

from alexnet_jax.errors import UserError

NEEDS = ("fastapi", "uvicorn", "python_multipart")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="folder of the run")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, for this machine only)")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes any free one (default: 8000)")
    add("--data", help="folder of the prepared data, if it has moved since training")
    searched = "most training images to search for what units respond to, of which the page shows up to 500 as "
    nearest = "neighbours; 0: it shows no images of the data (default: 2000)"
    add("--images", type=int, default=2000, metavar="N", help=searched + nearest)
    add("--max_megabytes", type=float, default=20, help="largest request (default: 20)")
    add("--max_images", type=int, default=32, help="most images in a request (default: 32)")
    add("--max_megapixels", type=float, default=25, help="largest image, and most decoded at a time (default: 25)")


def run(arguments: argparse.Namespace) -> None:
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise UserError(f'the page needs {", ".join(missing)}: pip install "alexnet_jax[serve]"')
    for name in ("max_megabytes", "max_images", "max_megapixels"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise UserError(f"--{name} must be a number above 0")
    if arguments.images < 0:
        raise UserError("--images must be 0, for none, or more")
    import uvicorn

    from alexnet_jax.serving import app
    from alexnet_jax.serving.served import open_served

    with _listen(arguments.host, arguments.port) as listener:  # first, so that a port in use is reported at once
        served = open_served(arguments.workdir, arguments.data, arguments.images)
        limits = app.Limits(
            max_bytes=int(arguments.max_megabytes * 1e6),
            max_images=arguments.max_images,
            max_pixels=int(arguments.max_megapixels * 1e6),
        )
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        message = f"serving {arguments.workdir}, step {served.net.step}, at http://{host}:{listener.getsockname()[1]}"
        message += f"\nwithout images of the data: {served.missing}" * bool(served.missing)
        application = app.make_app(served, limits, arguments.host, lambda: print(message, flush=True))
        for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn stops on them, and then raises them again
            signal.signal(stop, lambda *_: None)
        config = uvicorn.Config(
            application, log_level="warning", timeout_keep_alive=5, timeout_graceful_shutdown=5, server_header=False
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error}; give another --port or --host") from None
