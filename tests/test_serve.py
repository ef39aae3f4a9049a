"""The web page in a real server and a real browser, its endpoints, bad requests, and load."""

import base64
import contextlib
import dataclasses
import gzip
import json
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

from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.images import stored_pixels
from alexnet_jax.explorer import description, stages
from alexnet_jax.inference import network
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import networks
from alexnet_jax.run import config_files
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


def ask(url: str, pixels: np.ndarray, **query: str | int) -> dict[str, np.ndarray]:
    """The outputs of api/run for stored pixels [N, 32, 32, 3]."""
    answer = httpx.post(f"{url}/api/run", params={"step": 0, **query}, content=pixels.tobytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    start = 4 + int.from_bytes(answer.content[:4], "little")
    found = {}
    for output in json.loads(answer.content[4:start])["outputs"]:
        count = np.prod(output["shape"], dtype=int)
        found[output["name"]] = np.frombuffer(answer.content, "<f4", count, start).reshape(output["shape"])
        start += 4 * count
    assert start == len(answer.content)
    return found


def stored(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_a_run_of_the_network(server):
    """Of more images than are computed at a time."""
    net, pixels = server.network, stored(11)
    outputs = "probabilities,conv1.response,conv5.pool,fc6.activation"
    found = ask(server.url, pixels, links="1,1,1,1", outputs=outputs)
    assert list(found) == outputs.split(",")
    np.testing.assert_allclose(found["probabilities"], np.exp(log_probabilities(net, pixels)), atol=1e-5)
    for name, kind in (("conv1.response", "response"), ("conv5.pool", "output")):
        layer = name.partition(".")[0]
        maps = net.ask(net.activations_step(kind, (layer,)), pixels)[layer].transpose(0, 1, 4, 2, 3)
        np.testing.assert_allclose(found[name], maps.reshape(11, -1, *maps.shape[3:]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["fc6.activation"], net.ask(net.features_step("fc6"), pixels), rtol=1e-4, atol=1e-4)


def test_links_are_cut(server):
    net, pixels = server.network, stored(1)
    params = stages.cut(net.config.model, net.params, (1, 0, 1, 1))
    parted = np.exp(log_probabilities(dataclasses.replace(net, params=params), pixels))
    found = ask(server.url, pixels, links="1,0,1,1")["probabilities"]
    np.testing.assert_allclose(found, parted, atol=1e-5)
    assert np.abs(found - np.exp(log_probabilities(net, pixels))).max() > 1e-3


def test_the_page_and_its_files(server):
    """The same as in a folder of `alexnet export --explorer`, but for the programs."""
    page = httpx.get(server.url)
    assert page.status_code == 200 and page.text == (description.BUILT / "index.html").read_text()
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "script-src" not in policy
    described = httpx.get(f"{server.url}/network.js").text
    assert described.startswith('explorer("network",')
    described = json.loads(described[len('explorer("network",') : -3])
    assert (described["backend"], described["classes"], described["runtime"]) == ("server", server.network.classes, {})
    assert [(step["step"], step["program"]) for step in described["steps"]] == [(0, None)]
    assert (described["units"], described["searched"], described["neighbours"]) == (4, 30, 30)
    for name in ("units/conv1", "units/conv5", "neighbours"):
        script = httpx.get(f"{server.url}/{name}.js")
        assert script.text.startswith(f'explorer("{name}",') and "javascript" in script.headers["content-type"]
    for path in ("explorer.js", "explorer.css"):
        assert httpx.get(f"{server.url}/{path}").text == (description.BUILT / path).read_text()
    assert httpx.get(f"{server.url}/?answer=1").text == page.text
    for path in ("index.html", "runtime/wasm.js", "sources.sha256", "units/", "../app.py"):
        assert httpx.get(f"{server.url}/{path}").status_code == 404


def test_the_endpoints_are_described(server):
    described = httpx.get(f"{server.url}/openapi.json").json()
    assert set(described["paths"]) == {"/api/health", "/api/predict", "/api/run"}
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


RUN: dict[str, str | int] = {"step": 0, "links": "1,1,1,1"}
BAD_RUNS: dict[str, tuple[int, dict]] = {
    "no body": (422, {"content": b""}),
    "half an image": (422, {"content": bytes(1000)}),
    "more images than allowed": (413, {"content": bytes(21 * 32 * 32 * 3)}),
    "more bytes than allowed": (413, {"content": bytes(2_100_000)}),
    "no step": (422, {"params": {"links": "1,1,1,1"}}),
    "a step that is not kept": (422, {"params": RUN | {"step": 3}}),
    "a step that is no number": (422, {"params": RUN | {"step": "x"}}),
    "too few links": (422, {"params": RUN | {"links": "1,1"}}),
    "links that are no states": (422, {"params": RUN | {"links": "1,1,1,0.5"}}),
    "an unknown output": (422, {"params": RUN | {"outputs": "conv1.nothing"}}),
    "no output": (422, {"params": RUN | {"outputs": ""}}),
}


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_bad_runs_get_clean_answers(server, kind):
    code, request = BAD_RUNS[kind]
    whole = {"params": RUN, "content": stored(1).tobytes()}
    answer = httpx.post(f"{server.url}/api/run", **whole | request)
    assert answer.status_code == code and answer.json()["detail"], answer.text
    assert ask(server.url, stored(1), links="1,1,1,1")["probabilities"].shape == (1, 3)


def test_an_answer_that_is_too_large_is_refused(server):
    """Which takes an output many times over, in a network as small as this one."""
    outputs = ",".join(["conv1.response"] * 700)
    params = RUN | {"outputs": outputs}
    answer = httpx.post(f"{server.url}/api/run", params=params, content=stored(20).tobytes())
    assert answer.status_code == 413 and "an answer of 351 MB is too large" in answer.json()["detail"]


def test_other_methods_paths_and_hosts(server):
    assert httpx.get(f"{server.url}/api/predict").status_code == 405
    assert httpx.get(f"{server.url}/../../etc/passwd").status_code == 404
    assert httpx.get(server.url, headers={"host": "evil.example"}).status_code == 400
    assert httpx.get(f"{server.url}/api/run").status_code == 405
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
                if number % 5 == 3:
                    answer = session.post(f"{server.url}/api/run", params=RUN, content=stored(1 + i).tobytes())
                elif number % 5 == 4:
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
    assert after["images"] - before["images"] == 180
    assert after["passes"] - before["passes"] < 150  # alone, each would take one


DROP = """([content, type]) => {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
    const event = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize(("width", "how"), [(1200, "drop"), (390, "file")])
def test_the_page_in_a_browser(server, browser, width, how):
    expect = pytest.importorskip("playwright.sync_api").expect
    content = photos(1)[0]
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if server.url not in request.url[:60]
            and not request.url.startswith(("data:", "blob:")) else None)  # fmt: skip
    page.goto(server.url)
    page.locator(".bars li").first.wait_for()  # of the first example
    assert page.title().startswith("run <&>")
    before = page.inner_text(".bars")
    if how == "file":
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": content})
    else:
        page.evaluate(DROP, [base64.b64encode(content).decode(), how])
    expect(page.locator(".bars")).not_to_have_text(before, use_inner_text=True)
    probabilities = expected(server, content)
    names = [name for _, name in sorted(zip(-probabilities, server.network.classes, strict=True))]
    assert page.locator(".bars .name").all_inner_texts() == names  # as text, whatever they contain
    widths = page.locator(".bars .fill").evaluate_all("(all) => all.map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx(sorted((100 * probabilities).tolist(), reverse=True), abs=0.1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".bars button").nth(2).click()
    page.locator("canvas.evidence").wait_for()
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.locator("[role=alert]").wait_for()
    assert problems == []
    page.close()


def test_without_images_of_the_data(workdir):
    with started(workdir, signal.SIGINT, "--images=0") as (url, _):
        described = httpx.get(f"{url}/network.js").text
        assert '"examples":[],"units":0,"searched":0,"neighbours":0' in described
        assert httpx.get(f"{url}/neighbours.js").status_code == 404


@pytest.mark.long
def test_a_stalled_upload_does_not_keep_the_server_from_stopping(workdir):
    line = [sys.executable, "-m", "alexnet_jax", "serve", "--workdir", str(workdir), "--port=0", "--images=0"]
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
    for flag in ("--max_megabytes=nan", "--images=-3"):
        assert f"{flag.partition('=')[0]} must be" in run("alexnet_jax", "serve", "--workdir", workdir, flag, code=2)
    assert "no prepared data" in run(
        "alexnet_jax", "serve", "--workdir", workdir, f"--data={tmp_path}", "--port=0", code=2
    )
