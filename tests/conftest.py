"""All tests run on four simulated CPU devices, with JAX's implicit promotions switched off."""

import argparse
import functools
import gc
import io
import json
import os
import platform
import shutil
import signal
import time
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
# All tests, and the commands that they start, share one cache of compiled programs, which is kept between runs.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache/compiled" / platform.node())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from collections.abc import Callable

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax import steps
from alexnet_jax.commands import verify_run
from alexnet_jax.data.loader import Batch
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.run.checks import VERIFIED
from tests.tiny import tiny_config

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Under `nohup bash tests/run.sh &` these are ignored, which everything that tests start and signal would inherit.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="write tests/faults/results.json; see there")


def pytest_collection_finish() -> None:
    """Leave what is imported out of the garbage collections, which take a tenth of the time in which JAX traces."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Delete compiled programs that are a month old: those of code as it was."""
    if not hasattr(session.config, "workerinput"):
        for path in Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob("*"):
            if time.time() - path.stat().st_mtime > 30 * 24 * 3600:
                path.unlink(missing_ok=True)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file of the format `kind`."""
    out = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def tiny() -> ConfigDict:
    """The paper's layers at toy size: 28x28 images, 8 to 16 kernels, 10 classes, batches of 8."""
    return tiny_config()


@pytest.fixture
def statistics() -> Statistics:
    return made_up_statistics()


def made_up_statistics() -> Statistics:
    """Statistics of 32x32 images."""
    rng = np.random.default_rng(1)
    vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Statistics(
        rng.uniform(90, 150, (32, 32, 3)).astype(np.float32),
        np.array([9000.0, 900.0, 90.0], np.float32),
        vectors.astype(np.float32),
    )


def random_batch(size: int = 8, image: int = 32, classes: int = 10, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    mask = np.ones(size, bool)
    mask[-1] = False
    return Batch(
        rng.integers(0, 256, (size, image, image, 3), dtype=np.uint8),
        rng.integers(0, classes, size).astype(np.int32),
        rng.permutation(100)[:size].astype(np.int32),
        mask,
    )


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of JPEGs: `image_folder({"cat": 3, "dog": 2})`."""

    def make(counts: dict[str, int], at: str = "images", size: tuple[int, int] = (50, 40)) -> Path:
        rng = np.random.default_rng(0)
        for name, count in counts.items():
            (tmp_path / at / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size))
                Image.fromarray(pixels).save(tmp_path / at / name / f"{i:03d}.jpg", quality=95)
        return tmp_path / at

    return make


@pytest.fixture(scope="module")
def browser():
    """A real, headless one."""
    api = pytest.importorskip("playwright.sync_api", reason="`bash tests/run.sh --all` installs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a browser: no chromium is installed")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """A trained network and its explorer."""
    from tests.explored import explore

    return explore(tmp_path_factory.mktemp("explored"))


@pytest.fixture
def opened(browser, explored):
    """A function that opens the explorer's page; at the end nothing may have gone wrong there."""
    from tests.explored import Opened

    pages = []

    def open_page(**options: Any):
        pages.append(Opened(browser, f"{explored.folder.as_uri()}/index.html", **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The workdir of the run of runs.CONFIG, without a stop or a fault."""
    from tests import runs

    home = tmp_path_factory.mktemp("whole")
    runs.run(runs.command(home, "run"))
    return home / "run"


STEPS = {name: functools.cache(getattr(steps, name)) for name in ("make_train_step", "make_eval_step")}


@pytest.fixture
def verify(monkeypatch) -> Callable[..., dict[str, Any]]:
    """Verify a workdir in this process, on its devices: what verified.json then holds.

    A step is made once for all tests, which take the same ones again and again.
    """
    for name, made_once in STEPS.items():
        monkeypatch.setattr(steps, name, made_once)
    monkeypatch.setattr(verify_run, "_prepare_devices", lambda segments, on_any: None)

    def verify(directory: Path, *flags: str) -> dict[str, Any]:
        parser = argparse.ArgumentParser()
        verify_run.add_arguments(parser)
        verify_run.run(parser.parse_args([str(directory), *flags]))
        return json.loads((directory / VERIFIED).read_text())[-1]

    return verify
