"""The library: a network that `alexnet_jax.train` returns and `alexnet_jax.load` opens, and what it says of images."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax import augment, sharding, steps
from alexnet_jax.data.records import Subset
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.inference import predictions
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import identify
from alexnet_jax.run import config_files, run_data
from tests.conftest import encoded
from tests.splits import in_memory
from tests.tiny import tiny_config

STEPS = 40


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Network:
    """Trained on digits until it is better than chance."""
    values = tiny_config()
    values.augment.flip = False
    values.train.update(batch_size=32, max_steps=STEPS, eval_batch_size=128)
    return alexnet_jax.train(config_files.parse(values), tmp_path_factory.mktemp("network") / "run")


@pytest.fixture
def digits(net) -> np.ndarray:
    """[360, 32, 32, 3] uint8: the split `test`."""
    return read(net.dataset().splits["test"])


def read(images) -> np.ndarray:
    pixels = np.empty((len(images.labels), 32, 32, 3), np.uint8)
    assert not images.read(np.arange(len(pixels)), pixels)
    return pixels


def test_a_network_is_shown_in_a_line(net):
    assert repr(net) == f"Network({net.path}, step {STEPS}, 2 towers, 10 classes)"


def test_it_looks_trained(net):
    """40 steps leave marks in the first and last layer, and move biases. A new last layer is noticed."""
    assert identify.looks(identify.identify(net))[0] == (
        "partly or briefly: conv1, fc8 look trained; conv2, conv3, conv4, conv5, fc6, fc7 little changed"
    )
    started = steps.init_state(net.config, net.mesh).params
    new = dataclasses.replace(net, params={**net.params, "fc8": jax.device_get(started["fc8"])})
    assert identify.looks(identify.identify(new))[0].startswith("yes, but for fc8, which is as it starts")
    new = dataclasses.replace(net, params=jax.device_get(started))
    assert identify.looks(identify.identify(new))[0].startswith("no: weights are as programs start them")


def expected_probabilities(net: Network, pixels: np.ndarray, views: int = 1) -> np.ndarray:
    """By the step itself, both towers on one device."""
    step = steps.make_log_predict_step(net.config, sharding.make_mesh(1, 1, 2), views)
    return np.exp(step(jax.device_get(net.params), pixels, net.statistics))


@pytest.mark.slow
def test_training_returns_the_network_that_load_opens(net):
    opened = alexnet_jax.load(str(net.path))
    assert isinstance(opened, alexnet_jax.Network) and (opened.step, opened.name) == (STEPS, "run")
    assert opened.classes == [str(digit) for digit in range(10)] and opened.config == net.config
    assert opened.identity == net.identity
    jax.tree.map(np.testing.assert_array_equal, opened.params, net.params)
    changed = jax.tree.map(np.array, jax.device_get(net.params))
    changed["fc8"]["bias"][0, 0] += 1
    assert dataclasses.replace(net, params=changed).identity != net.identity


def test_every_form_of_an_image_gives_the_same_prediction(net, digits, tmp_path):
    path = tmp_path / "seven.png"
    path.write_bytes(encoded(digits[7], "PNG"))
    expected = expected_probabilities(net, digits[7:8])
    forms = {"path": path, "string": str(path), "bytes": path.read_bytes(), "array": digits[7]}
    with Image.open(path) as image:
        for form, given in {**forms, "Pillow image": image}.items():
            prediction = net.predict(given)
            assert prediction.probabilities.shape == (1, 10) and prediction.probabilities.dtype == np.float32, form
            np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-5, atol=1e-7, err_msg=form)


def test_several_images_keep_their_order(net, digits):
    """More of them than fit in a batch."""
    prediction = net.predict(list(digits))
    expected = expected_probabilities(net, digits)
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-4, atol=1e-7)
    best = [np.argsort(-row, kind="stable")[:3].tolist() for row in prediction.probabilities]
    assert [[name for name, _ in top] for top in prediction.top(3)] == [[str(label) for label in row] for row in best]
    assert [probability for _, probability in prediction.top(3)[0]] == prediction.probabilities[0, best[0]].tolist()
    assert prediction.names == [str(row[0]) for row in best] and len(prediction.top(99)[0]) == 10


def test_images_of_any_size_are_scaled_and_cropped(net):
    tall = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(net.predict(tall).probabilities, net.predict(tall[16:48]).probabilities)


def test_a_folder_stands_for_its_files(net, digits, tmp_path):
    (tmp_path / "b").mkdir()
    for i, name in enumerate(("b/1.png", "a.png", "c.png", ".hidden")):
        (tmp_path / name).write_bytes(encoded(digits[i], "PNG"))
    expected = net.predict([digits[1], digits[0], digits[2]]).probabilities
    np.testing.assert_allclose(net.predict(tmp_path).probabilities, expected, rtol=1e-5)


@pytest.mark.parametrize("views", [5, 10])
def test_several_views(net, digits, views, capsys):
    prediction = net.predict(list(digits[:8]), views=views)
    np.testing.assert_allclose(prediction.probabilities, expected_probabilities(net, digits[:8], views), rtol=1e-5)
    assert np.abs(prediction.probabilities - net.predict(list(digits[:8])).probabilities).max() > 1e-3
    warned = (
        "mirror images, which this network was trained without; --views 5 leaves them out" in capsys.readouterr().err
    )
    assert warned == (views == 10)


def test_ten_views_are_no_surprise_to_a_network_trained_with_mirror_images(net, capsys):
    predictions.check_views(10, net.config.augment.model_copy(update={"flip": True}))
    assert capsys.readouterr().err == ""


def test_the_images_that_a_run_uses(net):
    config = config_files.changed(net.config, data={"train_examples": 5})
    found = {split: run_data.images(net.dataset(), config, split, "--split") for split in ("train", "test")}
    assert {split: len(images.labels) for split, images in found.items()} == {"train": 5, "test": 360}


def test_views_that_there_are_not(net, digits):
    with pytest.raises(UserError, match="there are no 3 views of an image; give one of 1, 5, 10"):
        net.predict(digits[0], views=3)


def test_unreadable_images_are_all_named(net, digits, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no image")
    given = [digits[0], tmp_path / "damaged.png", b"no image either", tmp_path / "none.png"]
    with pytest.raises(UserError, match=r"damaged.png cannot be read: .*; image 2 cannot be read: .*none.png cannot"):
        net.predict(given)
    with pytest.raises(UserError, match=r"none.png cannot be read"):
        net.features(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((32, 32), np.uint8), r"not \[32, 32\] uint8"),
        (np.zeros((32, 32, 4), np.uint8), r"not \[32, 32, 4\] uint8"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"not \[2, 32, 32, 3\] uint8"),
        (np.zeros((32, 32, 3), np.float32), r"not \[32, 32, 3\] float32"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(net, array, message):
    with pytest.raises(UserError, match=message):
        net.predict(array)


def test_no_images(net, tmp_path):
    with pytest.raises(UserError, match="no images"):
        net.predict([])
    with pytest.raises(UserError, match="holds no image"):
        net.predict(tmp_path)


def test_activations_have_a_tower_axis(net, digits):
    activations = net.activations(digits[0])
    assert list(activations) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert activations["conv5"].axes == ("tower", "height", "width", "channel")
    assert activations["conv5"].values.shape == (2, 2, 2, 4)
    assert activations["fc7"].axes == ("tower", "unit") and activations["fc7"].values.shape == (2, 16)
    np.testing.assert_array_equal(activations["fc7"].tower(1), activations["fc7"].values[1])
    logits = activations["fc8"].values.reshape(-1).astype(np.float64)
    expected = net.predict(digits[0]).probabilities[0]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), expected, rtol=1e-4)
    responses = net.activations(digits[0], kind="response")
    assert list(responses) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert responses["conv1"].values.min() < 0 <= activations["conv1"].values.min()  # before and after the ReLU
    with pytest.raises(UserError, match="kind 'gradient'; give one of output, response"):
        net.activations(digits[0], kind="gradient")


def test_features_are_the_activations_side_by_side(net, digits):
    features = net.features(list(digits[:3]))
    assert features.shape == (3, 32) and features.dtype == np.float32
    np.testing.assert_array_equal(features, net.features(list(digits[:3]), layer="fc7"))
    for i in range(3):
        activations = net.activations(digits[i])
        np.testing.assert_allclose(features[i], np.concatenate(list(activations["fc7"].values)), rtol=1e-4, atol=1e-6)
        flat = activations["conv5"].values.reshape(1, -1)
        both = np.concatenate([flat, activations["fc8"].values.reshape(1, -1)], axis=1)
        np.testing.assert_allclose(net.features(digits[i], layer="fc8,conv5"), both, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"no layer 'fc9', only conv1, .*, fc7, fc8; give some of these, or all"):
        net.features(digits[0], layer="fc9")


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_counts_every_image_once(net, digits, views):
    labels = net.dataset().splits["test"].labels
    errors = net.evaluate(views=views)
    probabilities = expected_probabilities(net, digits, views)
    own = probabilities[np.arange(360), labels]
    better = (probabilities > own[:, None]).sum(axis=1)
    assert errors["top1_error"] == pytest.approx((better >= 1).mean())
    assert errors["top5_error"] == pytest.approx((better >= 5).mean())
    assert errors["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert errors["top1_interval"] == predictions.interval(round(errors["top1_error"] * 360), 360)
    described = {name: errors[name] for name in ("count", "views", "split", "step")}
    assert described == {"count": 360, "views": views, "split": "test", "step": STEPS}
    assert errors["top1_error"] < 0.8 and "bad_records" not in errors  # guessing one of ten: 0.9


def test_answers_are_kept_and_used_again(net, monkeypatch):
    first = net.answers()
    assert predictions.load(net.path / "predictions-test-1.npz") is not None

    def computed(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(Network, "over", computed)
    np.testing.assert_array_equal(net.answers().predictions.log_probabilities, first.predictions.log_probabilities)
    for other in (dataclasses.replace(net, step=STEPS + 1), dataclasses.replace(net, path=net.path / "config.json")):
        with pytest.raises(AssertionError, match="computed again"):
            other.evaluate()


def test_evaluate_other_splits(net):
    assert net.evaluate(split="train")["count"] == len(net.dataset().splits["train"].labels)
    with pytest.raises(UserError, match="no split 'x', only test, train; give one of them as --split"):
        net.evaluate(split="x")


def test_evaluating_the_train_split_uses_the_images_that_were_trained_on(net, tmp_path):
    config = config_files.changed(net.config, data={"train_examples": 100})
    answers = dataclasses.replace(net, config=config, path=tmp_path).answers(split="train")
    labels = net.dataset().splits["train"].labels
    np.testing.assert_array_equal(answers.predictions.label, labels[np.arange(100) * len(labels) // 100])
    assert answers.score()["count"] == 100


class Damaged(Subset):
    """A split whose images `damaged` cannot be read."""

    damaged: tuple[int, ...] = ()

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        super().read(index, out)
        return {row: "damaged" for row, i in enumerate(index.tolist()) if i in self.damaged}


def damaged(digits: np.ndarray, *index: int) -> Damaged:
    images = Damaged(in_memory(np.arange(len(digits), dtype=np.int32) % 10, digits), np.arange(len(digits)))
    images.damaged = index
    return images


def test_over_a_split(net, digits):
    """Each image once and in order, whatever the size of the last batch."""
    for count in (1, 5, 128, 200):
        parts = list(net.over(damaged(digits[:count]), net.log_predict(1)))
        examples, images, labels, results = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("example", "image", "label", "result")
        )
        np.testing.assert_array_equal(examples, np.arange(count))
        np.testing.assert_array_equal(images, digits[:count])
        np.testing.assert_array_equal(labels, np.arange(count) % 10)
        np.testing.assert_allclose(np.exp(results), expected_probabilities(net, digits[:count]), rtol=1e-4, atol=1e-7)


def test_damaged_images_are_left_out_and_reported(net, digits, capsys):
    images, problems = damaged(digits[:200], 3, 150), dict[int, str]()
    parts = list(net.over(images, net.features_step(None), max_bad=0.01, bad=problems))
    expected = np.delete(np.arange(200), [3, 150])
    np.testing.assert_array_equal(np.concatenate([part.example for part in parts]), expected)
    features = np.concatenate([part.result for part in parts])
    np.testing.assert_allclose(features, net.features(list(digits[expected])), rtol=1e-4, atol=1e-6)
    assert problems == {3: "damaged", 150: "damaged"} and capsys.readouterr().out == ""
    list(net.over(images, net.features_step(None), max_bad=0.01))
    output = capsys.readouterr().out
    assert output.count("it is left out") == 2 and "image 3, " in output and "image 150, " in output
    with pytest.raises(DataError, match="2 of 200 records are bad"):
        list(net.over(images, net.features_step(None), max_bad=0.009))
    everything = damaged(digits[:4], 0, 1, 2, 3)
    with pytest.raises(DataError, match="none of the images can be read"):
        list(net.over(everything, net.features_step(None), max_bad=1.0))
    assert list(net.over(everything, net.features_step(None), max_bad=1.0, bad={})) == []


def test_steps_are_compiled_once(net):
    assert net.log_predict(1) is net.log_predict(1) and net.log_predict(1) is not net.log_predict(10)
    assert net.features_step(None) is net.features_step("fc7") is not net.features_step("fc6")


def test_the_crop_is_what_the_network_computes_on(net, digits):
    """Pixels outside the centre crop change nothing, and those inside do."""
    crop, expected = net.centre_crop(digits[:2]), net.predict(list(digits[:2])).probabilities
    np.testing.assert_array_equal(crop, augment.centre_crop(digits[:2], 28))
    frame = np.zeros_like(digits[:2])
    frame[:, 2:30, 2:30] = crop
    np.testing.assert_array_equal(net.predict(list(frame)).probabilities, expected)
    frame[:, 2] = 255
    assert np.abs(net.predict(list(frame)).probabilities - expected).max() > 0


def test_a_folder_without_a_network(tmp_path):
    with pytest.raises(UserError, match=r"is not a workdir: it has no config\.json"):
        alexnet_jax.load(tmp_path)
