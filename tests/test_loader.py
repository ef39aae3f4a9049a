"""From packed shards to batches."""

import contextlib
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax.data import packing, records
from alexnet_jax.data.loader import Batch, Batches, Order, Pool, Reading
from alexnet_jax.data.sources.source import Source, array_split
from alexnet_jax.data.streaming import Streamed
from alexnet_jax.errors import DataError
from tests import runs, splits


def numbered(count: int) -> Streamed:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    return splits.in_memory(np.arange(count) % 7, pixels)


def collect(order: Order, count: int, start: int, stop: int, threads: int = 2, **changes) -> list[Batch]:
    reading = Reading(threads, prefetch=2, max_bad=0.0)._replace(**changes)
    with contextlib.closing(Batches(numbered(count), order, start, stop, reading)) as batches:
        return list(batches)


def test_every_epoch_contains_every_example_once_in_a_new_order():
    order = Order(examples=50, batch_size=6, seed=3)
    assert order.steps_per_epoch == 9
    epochs = []
    for epoch in range(2):
        batches = collect(order, 50, 9 * epoch, 9 * (epoch + 1))
        index = np.concatenate([batch.example[batch.mask] for batch in batches])
        assert sorted(index) == list(range(50))
        epochs.append(index.tolist())
        for batch in batches:
            np.testing.assert_array_equal(batch.image[:, 0, 0, 0], batch.example)
            np.testing.assert_array_equal(batch.label, batch.example % 7)
    assert epochs[0] != epochs[1]
    assert epochs[1] != [b for batch in collect(order._replace(seed=4), 50, 0, 9) for b in batch.example[batch.mask]]


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) for first, second in zip(a, b, strict=True) for x, y in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4])
def test_order_depends_only_on_seed_and_epoch_and_can_start_anywhere(threads):
    order = Order(50, 8, seed=3)
    whole = collect(order, 50, 0, 20)
    assert same(whole, collect(order, 50, 0, 20, threads))
    assert same(whole[10:], collect(order, 50, 10, 20, threads))  # within an epoch


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_each_process_reads_its_part_of_every_batch(parts):
    """Real processes together read every example once per epoch, in the order of a single process, and do so after a
    restart within an epoch, too."""
    program = """
import json, sys
from tests.test_loader import Order, collect
part, parts, start = map(int, sys.argv[1:])
batches = collect(Order(50, 8, seed=3), 50, start, 14, threads=part % 3, part=part, parts=parts)
print(json.dumps([[x.tolist() for x in (batch.example, batch.mask, batch.image[:, 0, 0, 0])] for batch in batches]))
"""
    whole = collect(Order(50, 8, seed=3), 50, 0, 14)
    for start in (0, 10):
        words = [sys.executable, "-c", program]
        processes = [runs.start([*words, str(part), str(parts), str(start)]) for part in range(parts)]
        outputs = [json.loads(process.communicate()[0]) for process in processes]
        for number, batch in enumerate(whole[start:]):
            example, mask, pixel = ([x for output in outputs for x in output[number][field]] for field in range(3))
            assert example == batch.example.tolist() == pixel
            assert mask == batch.mask.tolist()
    assert sorted(x for batch in whole[:7] for x in batch.example[batch.mask]) == list(range(50))


def test_indivisible_batches_are_refused():
    with pytest.raises(ValueError, match="batches of 8 cannot be divided into 3 parts"):
        Batches(numbered(50), Order(50, 8, 3), 0, 1, Reading(1, 1, 0.0, part=0, parts=3))


def test_the_state_is_one_integer():
    """The number of the next batch is enough to continue from any batch."""
    order = Order(50, 8, seed=3)
    with contextlib.closing(Batches(numbered(50), order, 5, 20, Reading(threads=2, prefetch=4, max_bad=0.0))) as first:
        next(first)
        assert same(list(first), collect(order, 50, 6, 20))


def test_waiting_time_is_measured(monkeypatch):
    images, start = numbered(16), time.monotonic()
    read = images.read

    def slow(*arguments):
        time.sleep(0.05)
        return read(*arguments)

    monkeypatch.setattr(images, "read", slow)
    with contextlib.closing(Batches(images, Order(16, 8, 3), 0, 4, Reading(0, 1, 0.0))) as batches:
        for count, _ in enumerate(batches, 1):
            assert 0.05 * count <= batches.waited <= time.monotonic() - start


def test_evaluation_reads_every_image_once_in_order():
    batches = collect(Order(21, 8, seed=None), 21, 0, 3)
    assert [len(batch.label) for batch in batches] == [8, 8, 8]
    assert np.concatenate([batch.example[batch.mask] for batch in batches]).tolist() == list(range(21))
    fewer = collect(Order(3, 8, seed=None), 3, 0, 1)  # fewer images than a batch
    assert fewer[0].mask.tolist() == [True] * 3 + [False] * 5


def test_memory_is_reused_once_nothing_refers_to_it():
    pool = Pool((8, 4, 4, 3))
    array = pool.empty()
    array[:] = 7
    address, row = array.ctypes.data, array[3:][1:]
    del array
    other = pool.empty()
    other[:] = 9
    assert (row == 7).all()
    del row
    assert pool.empty().ctypes.data == address


def test_memory_that_jax_uses_is_not_reused():
    pool = Pool((8, 64, 64, 3))
    for _ in range(5):
        arrays = [pool.empty() for _ in range(4)]
        for i, array in enumerate(arrays):
            array[:] = i
        on_device = [jax.device_put(array) for array in arrays]
        del arrays, array
        for _ in range(4):
            pool.empty()[:] = 99
        assert [int(x.min()) for x in on_device] == [int(x.max()) for x in on_device] == [0, 1, 2, 3]
        del on_device


# --- bad records ---


@pytest.fixture(params=["raw", "jpeg"])
def packed(request, tmp_path) -> tuple[Path, records.Packed]:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    source = Source(["a", "b"], {"train": array_split("train", pixels, np.arange(40) % 2)}, {})
    settings = packing.Settings(request.param, 16, 95, 0.0)
    manifest = packing.pack(source, tmp_path / "data", settings, show_progress=False)
    (shard,) = manifest.splits["train"].shards
    return tmp_path / "data" / shard.name, records.open_split(tmp_path / "data", manifest, "train")


def read(split: records.Images, index: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    out = np.empty((len(index), split.size, split.size, 3), np.uint8)
    bad = split.read(index, out)
    return out, bad


def damage(shard: Path, split: records.Packed, *examples: int) -> None:
    """Flip one bit in the middle of records."""
    content = bytearray(shard.read_bytes())
    for i in examples:
        if isinstance(split, records.Jpeg):
            record = split.record(i)
            content[bytes(content).index(record) + len(record) // 2] ^= 1
        else:
            content[i * 16 * 16 * 3 + 100] ^= 1
    with shard.open("r+b") as file:  # in place, so that those who have it open see it
        file.write(content)


def test_a_bad_record_is_reported_and_replaced_by_the_next_intact_one(packed):
    shard, split = packed
    whole = list(Batches(split, Order(40, 8, seed=5), 0, 5, Reading(2, 2, 0.0)))
    damage(shard, split, 7, 8, 39)
    for threads in (0, 3):
        batches = Batches(split, Order(40, 8, seed=5), 0, 5, Reading(threads, 2, max_bad=0.1))
        news, replacement = [], {7: 9, 8: 9, 39: 0}
        for intact, batch in zip(whole, batches, strict=True):
            news += batches.news()
            assert batch.mask.all()
            assert batch.example.tolist() == [replacement.get(i, i) for i in intact.example.tolist()]
            np.testing.assert_array_equal(batch.label, batch.example % 2)
            kept = batch.example == intact.example
            np.testing.assert_array_equal(batch.image[kept], intact.image[kept])
            for row in np.flatnonzero(~kept):
                np.testing.assert_array_equal(batch.image[row], read(split, batch.example[row : row + 1])[0][0])
        assert sorted(batches.bad) == [7, 8, 39]
        assert len(news) == 3
        assert all(f"image {i}, train/{i}, {shard.name}: " in " ".join(news) for i in (7, 8, 39))
        batches.close()


def test_evaluation_leaves_bad_records_out(packed):
    shard, split = packed
    damage(shard, split, 7)
    batches = Batches(split, Order(40, 8, seed=None), 0, 5, Reading(2, 2, max_bad=0.1))
    evaluated = np.concatenate([batch.example[batch.mask] for batch in batches])
    assert evaluated.tolist() == [i for i in range(40) if i != 7]
    batches.close()


def test_reading_stops_above_max_bad(packed):
    shard, split = packed
    damage(shard, split, 1, 2, 3)
    batches = Batches(split, Order(40, 8, seed=5), 0, 5, Reading(2, 2, max_bad=0.05))
    with pytest.raises(DataError, match=rf"3 of 40 records are bad, more than the share of 0.05(.|\n)*{shard.name}"):
        list(batches)
    batches.close()


def test_truncating_an_open_shard_makes_bad_records_and_no_crash(packed):
    shard, split = packed
    with shard.open("r+b") as file:
        file.truncate(2000)
    _, bad = read(split, np.arange(40))
    assert {20, 39} <= set(bad) and shard.name in bad[39]
    with pytest.raises(DataError):
        list(Batches(split, Order(40, 8, seed=5), 0, 5, Reading(0, 2, max_bad=0.5)))


def test_no_intact_record_at_all(packed):
    shard, split = packed
    damage(shard, split, *range(40))
    with pytest.raises(DataError, match="none of the 40 records can be read"):
        next(Batches(split, Order(40, 8, seed=5), 0, 5, Reading(0, 1, max_bad=0.9)))
