"""The web page in a real server and a real browser, its endpoints, bad requests, and load."""

import asyncio
import base64
import contextlib
import dataclasses
import gzip
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image

from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.images import stored_pixels
from alexnet_jax.inference import network
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import networks
from alexnet_jax.run import config_files
from alexnet_jax.serving import batching, explain
from tests.conftest import ROOT, encoded
from tests.networks import log_probabilities, random_network
from tests.runs import environment
from tests.test_commands import run
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

CLASSES = ['<b>bold & "quoted"', "plain", "图"]


class Server(NamedTuple):
    url: str
    network: Network


@contextlib.contextmanager
def started(workdir: Path, stop: signal.Signals, *flags: str) -> Iterator[tuple[str, list[str]]]:
    """A server's address, and its lines on stderr; at the end the signal `stop` must end it cleanly."""
    line = [sys.executable, "-m", "alexnet_jax", "serve", "--workdir", str(workdir), "--port=0", *flags]
    process = subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    messages: list[str] = []
    with process:
        assert process.stdout and process.stderr
        reader = threading.Thread(target=messages.extend, args=(process.stderr,))
        reader.start()
        try:
            first = process.stdout.readline()
            assert "at http://127.0.0.1:" in first, (first, messages)
            yield first.rpartition(" at ")[2].strip(), messages
        finally:
            process.send_signal(stop)
            code = process.wait(20)
            reader.join()
    assert code == 0 and not [line for line in messages if "Traceback" in line or "ERROR" in line], (code, messages)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A network with random weights for the three classes of the data beside it."""
    home, rng = tmp_path_factory.mktemp("serve"), np.random.default_rng(0)
    for name in CLASSES:
        folder = home / "images" / name
        folder.mkdir(parents=True)
        for i in range(12):
            (folder / f"{i}.png").write_bytes(encoded(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), "PNG"))
    source = ["--source=folder", "--input", home / "images", "--output", home / "data"]
    run("alexnet_jax", "prepare", *source, "--size=32")
    values = tiny_config()
    values.model.num_classes = 3
    values.data.update(source="prepared", directory=str(home / "data"), eval_split="val")
    config = config_files.parse(values)
    dataset = open_dataset("prepared", str(home / "data"), 32, 3)
    net = dataclasses.replace(random_network(config), classes=dataset.classes, statistics=dataset.statistics())
    networks.to_workdir(net, home / "run <&>")
    return home / "run <&>"


@pytest.fixture(scope="module")
def server(workdir) -> Iterator[Server]:
    limits = ("--max_megabytes=2", "--max_images=20", "--max_megapixels=1")
    with started(workdir, signal.SIGTERM, *limits) as (url, _):
        yield Server(url, network.open_workdir(workdir))


def photos(count: int, seed: int = 1) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [encoded(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8), "PNG") for i in range(count)]


def expected(server: Server, content: bytes) -> np.ndarray:
    """The probabilities of the three classes."""
    return np.exp(log_probabilities(server.network, stored_pixels(content, 32)[0][None])[0][:3])


def check(server: Server, content: bytes, top: list[dict]) -> None:
    probabilities = dict(zip(server.network.classes, expected(server, content).tolist(), strict=True))
    assert [scored["name"] for scored in top] == sorted(probabilities, key=lambda name: -probabilities[name])
    assert [scored["probability"] for scored in top] == pytest.approx(
        sorted(probabilities.values(), reverse=True), abs=1e-5
    )


def test_one_image_and_several(server):
    contents = photos(3)
    files = [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]
    answer = httpx.post(f"{server.url}/api/predict", files=files)
    assert answer.status_code == 200 and [image["name"] for image in answer.json()] == ["0.png", "1.png", "2.png"]
    for content, image in zip(contents, answer.json(), strict=True):
        check(server, content, image["top"])
    answer = httpx.post(f"{server.url}/api/predict", files=[*files[:1], ("images", ("x.txt", b"no image"))])
    first, second = answer.json()
    assert answer.status_code == 200 and first["error"] is None
    assert second["top"] == [] and "not a valid image" in second["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_an_explanation(server):
    content = photos(1)[0]
    answer = httpx.post(f"{server.url}/api/explain", files={"image": ("a.png", content)}, timeout=60).json()
    check(server, content, answer["top"])
    evidence = np.array(answer["evidence"])
    assert evidence.shape == (7, 7) and np.isfinite(evidence).all() and evidence.std() > 0
    assert [len(tower) for tower in answer["kernels"]] == [4, 4]  # all kernels of tiny_config; the page shows up to 8
    responses = [kernel["response"] for kernel in answer["kernels"][0]]
    assert responses == sorted(responses, reverse=True)
    assert len(answer["neighbours"]) == 6 and {image["name"] for image in answer["neighbours"]} <= set(CLASSES)
    distances = [image["distance"] for image in answer["neighbours"]]
    assert distances == sorted(distances)
    with Image.open(io.BytesIO(base64.b64decode(answer["crop"].partition(",")[2]))) as crop:
        np.testing.assert_array_equal(np.asarray(crop), stored_pixels(content, 32)[0][2:30, 2:30])
    request = {"files": {"image": content}, "data": {"label": CLASSES[0]}}
    other = httpx.post(f"{server.url}/api/explain", **request, timeout=60).json()
    assert other["label"] == CLASSES[0] and answer["label"] == answer["top"][0]["name"]


def test_neighbours_are_those_of_features(server, workdir):
    """The page's neighbours are what Network.features says of the same training images."""
    net, content = server.network, photos(1)[0]
    train = net.dataset().splits["train"]
    pixels = np.empty((len(train.labels), 32, 32, 3), np.uint8)
    train.read(np.arange(len(pixels)), pixels)
    distances = np.linalg.norm(net.features(list(pixels)) - net.features(content), axis=1)
    answer = httpx.post(f"{server.url}/api/explain", files={"image": content}, timeout=60).json()
    np.testing.assert_allclose(
        [image["distance"] for image in answer["neighbours"]], np.sort(distances)[:6], rtol=1e-4, atol=1e-5
    )
    nearest = np.argsort(distances, kind="stable")[:6]
    assert [image["name"] for image in answer["neighbours"]] == [net.classes[label] for label in train.labels[nearest]]


def test_evidence_covers_squares_by_the_mean_image():
    """Squares that cover only what equals the mean image change nothing."""
    pixels, mean_image = np.full((32, 32, 3), 7, np.uint8), np.full((32, 32, 3), 7.2, np.float32)
    np.testing.assert_array_equal(explain.covered(pixels, mean_image, 28), np.repeat(pixels[None], 49, axis=0))
    pixels[2:9, 2:9] = 200
    changed = (explain.covered(pixels, mean_image, 28) != pixels).any(axis=(1, 2, 3)).reshape(7, 7)
    assert changed[0, 0] and not changed[3:, 3:].any() and not changed[:, 3:].any()


def test_the_endpoints_are_described(server):
    described = httpx.get(f"{server.url}/openapi.json").json()
    assert set(described["paths"]) == {"/api/health", "/api/predict", "/api/explain"}
    answers = described["paths"]["/api/predict"]["post"]["responses"]
    assert {"200", "413", "422", "503"} <= set(answers)
    assert described["components"]["schemas"]["Prediction"]["properties"]["top"]["description"]


def bad_requests() -> dict[str, tuple[int, dict]]:
    png, large = photos(1)[0], encoded(np.zeros((1100, 1000, 3), np.uint8), "PNG")
    huge = b"\x89PNG\r\n\x1a\n" + png[8:16] + (50_000).to_bytes(4, "big") * 2 + png[24:]
    script = ("../../x.svg", b"<svg onload='alert(1)'/>", "image/svg+xml")
    boundary = {"content-type": "multipart/form-data; boundary=x"}
    seven = {"content-type": "multipart/form-data; boundary=x; charset=utf-7"}
    start = b'--x\r\ncontent-disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    undeclared = iter([start, *[bytes(100_000)] * 30])
    return {
        "no body": (422, {}),
        "an empty file": (422, {"files": {"images": ("a.png", b"")}}),
        "another field": (422, {"files": {"other": ("a.png", png)}}),
        "text": (422, {"files": {"images": ("a.txt", b"hello")}}),
        "text instead of a file": (422, {"data": {"images": "hello"}}),
        "a truncated image": (422, {"files": {"images": ("a.png", png[:200])}}),
        "an image that claims 2.5 billion pixels": (422, {"files": {"images": ("a.png", huge)}}),
        "an image of more pixels than allowed": (422, {"files": {"images": large}}),
        "a script that claims to be an image": (422, {"files": {"images": script}}),
        "PostScript": (422, {"files": {"images": ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")}}),
        "more images than allowed": (413, {"files": [("images", ("a.png", png))] * 21}),
        "more bytes than allowed": (413, {"files": {"images": ("a.png", bytes(2_100_000))}}),
        "more bytes than allowed, undeclared": (413, {"content": undeclared, "headers": boundary}),
        "a broken multipart body": (400, {"content": b"--x\r\nno header at all", "headers": boundary}),
        "multipart without a boundary": (400, {"content": b"abc", "headers": {"content-type": "multipart/form-data"}}),
        "packed with gzip": (422, {"files": {"images": ("a.png", gzip.compress(png))}}),
        "a charset that cannot be decoded": (400, {"content": start + b"--x--", "headers": seven}),
        "JSON": (422, {"json": {"images": ["a"]}}),
    }


@pytest.mark.parametrize("kind", bad_requests())
def test_bad_requests_get_clean_answers(server, kind):
    code, request = bad_requests()[kind]
    answer = httpx.post(f"{server.url}/api/predict", **request, timeout=30)
    assert answer.status_code == code, answer.text
    assert answer.json()["detail"] and "Traceback" not in answer.text
    content = photos(1)[0]
    check(server, content, httpx.post(f"{server.url}/api/predict", files={"images": content}).json()[0]["top"])


def test_other_methods_paths_hosts_and_classes(server):
    assert httpx.get(f"{server.url}/api/predict").status_code == 405
    assert httpx.get(f"{server.url}/../../etc/passwd").status_code == 404
    assert httpx.get(server.url, headers={"host": "evil.example"}).status_code == 400
    content = photos(1)[0]
    answer = httpx.post(f"{server.url}/api/explain", files={"image": content}, data={"label": "x"}, timeout=60)
    assert answer.status_code == 422 and "there is no class x" in answer.text
    answer = httpx.post(f"{server.url}/api/explain", files={"image": b"x"})
    assert answer.status_code == 422 and "not a valid image" in answer.json()["detail"]
    with socket.create_connection(server.url.removeprefix("http://").split(":")) as raw:
        raw.sendall(b"\x00\xff no HTTP\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_fifty_clients_at_once_some_of_them_hostile(server):
    """All get the right answer, and many share a pass of the network."""
    contents = photos(10)
    correct = [expected(server, content) for content in contents]
    before = httpx.get(f"{server.url}/api/health").json()

    def client(number: int) -> list[int]:
        codes = []
        with httpx.Client(timeout=60) as session:
            for i in range(6):
                content, probabilities = contents[(number + i) % 10], correct[(number + i) % 10]
                if number % 5 == 4:
                    answer = session.post(f"{server.url}/api/predict", files={"images": content[: 50 + number]})
                else:
                    answer = session.post(f"{server.url}/api/predict", files={"images": content})
                    top = {scored["name"]: scored["probability"] for scored in answer.json()[0]["top"]}
                    answered = [top[name] for name in server.network.classes]
                    np.testing.assert_allclose(answered, probabilities, atol=1e-5)
                codes.append(answer.status_code)
        return codes

    with ThreadPoolExecutor(50) as threads:
        codes = list(threads.map(client, range(50)))
    assert all(set(got) == ({422} if number % 5 == 4 else {200}) for number, got in enumerate(codes))
    after = httpx.get(f"{server.url}/api/health").json()
    assert after["images"] - before["images"] == 240
    assert after["passes"] - before["passes"] < 200  # alone, each would take one


def test_a_batch_is_padded_to_a_compiled_size():
    for count, size in ((1, 1), (2, 8), (8, 8), (9, 32), (32, 32)):
        images = np.ones((count, 2, 2, 3), np.uint8)
        padded = batching.padded(images)
        assert padded.shape == (size, 2, 2, 3) and padded.sum() == images.sum()


def test_a_full_queue_is_answered_with_503(monkeypatch):
    """No worker empties the queue here, so the second image finds it full."""
    monkeypatch.setattr(batching, "MAX_WAITING", 1)

    async def ask_twice() -> None:
        batcher, image = batching.Batcher(lambda images: images), np.zeros((2, 2, 3), np.uint8)
        first = asyncio.ensure_future(batcher.ask(image))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match=r"503.*too many images are waiting"):
            await batcher.ask(image)
        first.cancel()

    asyncio.run(ask_twice())


def test_a_failed_pass_is_the_error_of_its_requests_alone():
    """The worker goes on with the next ones; who has left meanwhile is not answered."""

    def step(images: np.ndarray) -> np.ndarray:
        if images.any():
            raise ValueError("a failed pass")
        return images

    async def ask() -> None:
        batcher, image = batching.Batcher(step), np.ones((2, 2, 3), np.uint8)
        worker = asyncio.ensure_future(batcher.work())
        waiting = [asyncio.ensure_future(batcher.ask(image)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, ValueError, ValueError]
        assert not (await batcher.ask(0 * image)).any() and not worker.done()
        worker.cancel()

    asyncio.run(ask())


DROP = """([content, type]) => {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
    const event = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize(("width", "how"), [(1200, "drop"), (390, "paste"), (390, "file")])
def test_the_page_in_a_browser(server, browser, width, how):
    content = photos(1)[0]
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if server.url not in request.url[:60]
            and not request.url.startswith("data:") else None)  # fmt: skip
    page.goto(server.url)
    assert page.title().startswith("run <&>")
    if how == "file":
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": content})
    else:
        page.evaluate(DROP, [base64.b64encode(content).decode(), how])
    page.wait_for_selector("#answer:not([hidden])")
    page.locator("#message", has_text="%").wait_for()
    probabilities = expected(server, content)
    names = [name for _, name in sorted(zip(-probabilities, server.network.classes, strict=True))]
    assert page.locator("#top .name span:first-child").all_inner_texts() == names  # as text, whatever they contain
    widths = page.locator("#top .fill").evaluate_all(
        "(all) => all.map((bar) => bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx(sorted(probabilities.tolist(), reverse=True), abs=0.01)
    assert page.locator("#towers img").count() == 8 and page.locator("#near img").count() == 6
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".picture").scroll_into_view_if_needed()
    shot = Image.open(io.BytesIO(page.locator(".picture").screenshot())).convert("RGB")
    page.click("#toggle")  # without the evidence on it
    plain = Image.open(io.BytesIO(page.locator(".picture").screenshot())).convert("RGB")
    drawn = np.abs(np.asarray(shot, int) - np.asarray(plain, int)).max(axis=2) > 8
    assert 0.1 < drawn.mean() < 1
    crop = np.asarray(plain.resize((28, 28), Image.Resampling.BOX), int)
    assert np.corrcoef(crop.ravel(), stored_pixels(content, 32)[0][2:30, 2:30].ravel())[0, 1] > 0.9
    page.locator("#top .bar").nth(2).click()
    page.locator("#legend", has_text=f"“{names[2]}”").wait_for()
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.wait_for_selector("#message.bad")
    assert "not a valid image" in page.inner_text("#message") and not page.is_visible("#answer")
    expected_noise = "the server responded with a status of 422"  # browsers log it as an error
    assert [problem for problem in problems if expected_noise not in problem] == []
    page.close()


def test_the_page_says_why_there_are_no_neighbours(workdir):
    with started(workdir, signal.SIGINT, "--neighbours_of=0") as (url, _):
        answer = httpx.post(f"{url}/api/explain", files={"image": photos(1)[0]}, timeout=60).json()
    assert answer["neighbours"] == [] and "--neighbours_of 0" in answer["no_neighbours"]


@pytest.mark.long
def test_a_stalled_upload_does_not_keep_the_server_from_stopping(workdir):
    line = [sys.executable, "-m", "alexnet_jax", "serve", "--workdir", str(workdir), "--port=0", "--neighbours_of=0"]
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    port = int(process.stdout.readline().rpartition(":")[2])
    head = b"POST /api/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    with process, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head + b"content-length: 1000\r\n\r\n--x")
        time.sleep(1)  # the server waits for the rest
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_errors_at_the_start(workdir, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        output = run("alexnet_jax", "serve", "--workdir", workdir, f"--port={port}", code=2)
        assert f"cannot listen on 127.0.0.1, port {port}" in output and "give another --port" in output
    assert "is not a workdir" in run("alexnet_jax", "serve", "--workdir", tmp_path, "--port=0", code=2)
    assert "--max_images must be" in run("alexnet_jax", "serve", "--workdir", workdir, "--max_images=0", code=2)
    for flag in ("--max_megabytes=nan", "--neighbours_of=-3"):
        assert f"{flag.partition('=')[0]} must be" in run("alexnet_jax", "serve", "--workdir", workdir, flag, code=2)
    assert "no prepared data" in run(
        "alexnet_jax", "serve", "--workdir", workdir, f"--data={tmp_path}", "--port=0", code=2
    )
