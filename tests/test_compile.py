"""Programs compiled for hardware that is not here: what is counted in them, and what the paper's config needs."""

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.bench import cards, hlo, least, programs
from alexnet_jax.bench import compile as compile_
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests import aot
from tests.runs import environment

MB = 1 << 20  # float32 [512,512]
SCALARS = 9  # that the condition of a loop compares
FUSED = """
%fused.1 (p.0: f32[512,512], p.1: s32[]) -> f32[1,512] {
  %p.0 = f32[512,512]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %cast = f32[512,512]{1,0} bitcast(%p.0)
  ROOT %cut = f32[1,512]{1,0} dynamic-slice(%cast, %p.1, %p.1), dynamic_slice_sizes={1,512}
}

%fused.2 (p.2: f32[512,512], p.3: f32[1,512], p.4: s32[]) -> f32[512,512] {
  %p.2 = f32[512,512]{1,0} parameter(0)
  %p.3 = f32[1,512]{1,0} parameter(1)
  %p.4 = s32[] parameter(2)
  ROOT %put = f32[512,512]{1,0} dynamic-update-slice(%p.2, %p.3, %p.4, %p.4)
}

%fused.3 (p.5: f32[512,512], p.6: f32[1,512], p.7: s32[]) -> f32[512,512] {
  %p.5 = f32[512,512]{1,0} parameter(0)
  %p.6 = f32[1,512]{1,0} parameter(1)
  %p.7 = s32[] parameter(2)
  %put.2 = f32[512,512]{1,0} dynamic-update-slice(%p.5, %p.6, %p.7, %p.7)
  ROOT %twice = f32[512,512]{1,0} add(%put.2, %put.2), metadata={op_name="jit(f)/conv1/add"}
}

%body (p.8: (s32[], f32[512,512])) -> (s32[], f32[512,512]) {
  %p.8 = (s32[], f32[512,512]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p.8), index=0
  %x.8 = f32[512,512]{1,0} get-tuple-element(%p.8), index=1
  %copied = f32[512,512]{1,0} copy(%x.8)
  ROOT %again = (s32[], f32[512,512]{1,0}) tuple(%i, %copied)
}

%condition (p.9: (s32[], f32[512,512])) -> pred[] {
  %limit = s32[] constant(7)
  %p.9 = (s32[], f32[512,512]{1,0}) parameter(0)
  %i.9 = s32[] get-tuple-element(%p.9), index=0
  ROOT %less = pred[] compare(%i.9, %limit), direction=LT
}
"""


def moved(*lines: str, tpu: bool = False) -> int:
    """The bytes of a program with x and y f32[512,512], row f32[1,512], i s32[], t (s32[], f32[512,512])."""
    start = """
ENTRY %main (x: f32[512,512]) -> f32[512,512] {
  %x = f32[512,512]{1,0} parameter(0)
  %y = f32[512,512]{1,0} parameter(1)
  %row = f32[1,512]{1,0} parameter(2)
  %i.0 = s32[] parameter(3)
  %t = (s32[], f32[512,512]{1,0}) tuple(%i.0, %x)
"""
    program = hlo.Program(FUSED + start + "".join(f"  {line}\n" for line in lines) + "}\n", tpu)
    return sum(kernel.moved for kernel in program.kernels())


@pytest.mark.parametrize(
    ("bytes_moved", "lines"),
    {
        "operands and results": (3 * MB, "%z = f32[512,512]{1,0} add(%x, %y)"),
        "an operand twice": (2 * MB, "%z = f32[512,512]{1,0} multiply(%x, %x)"),
        "a library's kernel": (
            3 * MB,
            '%z = (f32[512,512], u8[0]) custom-call(%x, %y), custom_call_target="__cudnn$f"',
        ),
        "a slice in a fusion": (2 * 2048 + 4, "%z = f32[1,512]{1,0} fusion(%x, %i.0), kind=kLoop, calls=%fused.1"),
        "a slice": (2 * 2048, "%z = f32[1,512]{1,0} slice(%x), slice={[0:1], [0:512]}"),
        "an update": (2 * 2048, "%z = f32[512,512]{1,0} dynamic-update-slice(%x, %row, %i.0, %i.0)"),
        "one in a fusion": (2 * 2048 + 4, "%z = f32[512,512]{1,0} fusion(%x, %row, %i.0), kind=kLoop, calls=%fused.2"),
        "one read whole": (2 * MB + 2052, "%z = f32[512,512]{1,0} fusion(%x, %row, %i.0), kind=kLoop, calls=%fused.3"),
        "a counted loop": (
            7 * (2 * MB + SCALARS),
            "%z = (s32[], f32[512,512]) while(%t), condition=%condition, body=%body",
        ),
        "an asynchronous copy": (
            2 * MB,
            "%s = (f32[512,512], f32[512,512], u32[]) copy-start(%x)\n  %z = f32[512,512] copy-done(%s)",
        ),
        "an asynchronous slice": (
            2 * 2048,
            "%s = ((f32[512,512]), f32[1,512], s32[]) slice-start(%x), slice={[0:1], [0:512]}\n"
            "  %z = f32[1,512] slice-done(%s)",
        ),
    }.values(),
)
def test_what_a_kernel_moves(bytes_moved, lines):
    assert moved(lines) == bytes_moved


def test_loops_whose_length_is_noted_or_unknown():
    loop = "%z = (s32[], f32[512,512]) while(%t), condition=%condition, body=%body"
    assert moved(loop + ', backend_config={"known_trip_count":{"n":"3"}}') == 3 * (2 * MB + SCALARS)
    program = hlo.Program(
        FUSED.replace("constant(7)", "parameter(1)") + "ENTRY %main () -> f32[] {\n  " + loop + "\n}\n"
    )
    assert sum(kernel.bytes for kernel in program.kernels()) == 2 * MB + SCALARS and program.unknown_loops == 1


def test_memories_and_tiles_of_a_tpu():
    assert moved("%z = f32[512,512]{1,0:T(8,128)S(1)} copy(%x)", tpu=True) == MB, "only the reading leaves the core"
    assert moved("%z = f32[512,512]{1,0:T(8,128)S(1)} copy(%x)") == 2 * MB, "what is another memory on a GPU"
    (array,) = hlo.arrays("bf16[64,55,55,48]{3,2,1,0:T(8,128)(2,1)}")
    assert array.size == 64 * 55 * 55 * 48 * 2 and array.moved(tpu=True) == 64 * 55 * 56 * 128 * 2
    (array,) = hlo.arrays("bf16[128,55,55,48]{0,3,2,1:T(8,128)(2,1)}")
    assert array.moved(tpu=True) == array.size, "the batch is the fastest axis"


def test_a_program_of_this_machine_is_read():
    """Its loop runs nine times, and the scopes say which layer each kernel belongs to."""

    def loop(x):
        with jax.named_scope("conv1"):
            return jax.lax.fori_loop(0, 9, lambda i, x: jnp.sin(x @ x) + i.astype(x.dtype), x)

    program = programs.read(jax.jit(loop, donate_argnums=0).lower(jnp.ones((64, 64))).compile())
    kernels = program.kernels()
    assert 9 in {kernel.times for kernel in kernels} and program.unknown_loops == 0 and program.aliases() == 1
    assert sum(kernel.bytes * kernel.times for kernel in kernels) >= 9 * 3 * 64 * 64 * 4
    assert "convolution" in {programs.part(kernel.scope) for kernel in kernels}


def test_parts_of_a_step():
    scopes = {
        "jit(train_step)/jvp(vmap(images))/vmap()/gather": "images",
        "jit(train_step)/transpose(jvp(vmap(Tower)))/conv1/slice": "convolution",
        "jit(train_step)/jvp()/shard_map/Tower/exchange/all_gather": "collectives",
        "jit(train_step)/optimizer/add": "optimizer",
        "jit(train_step)/add": "other",
        "": "copies",
    }
    assert {scope: programs.part(scope) for scope in scopes} == scopes


def paper(**changes):
    sizes = {"train.batch_size": 1024, "train.eval_batch_size": 1024, "train.compute_dtype": "bfloat16"}
    return config_files.parse(config_files.load("paper", sizes | {"mesh.data": 1, "mesh.tower": 1} | changes))


def test_the_least_bytes_of_the_paper():
    """Its arithmetic by hand, in elements an image: image 224^2 * 3, conv1 55^2 * 96 -> 27^2 * 96, and so on."""
    layers = least.elements(paper())
    counts = [layers[name] for name in ("images", "conv1", "conv2", "conv3", "conv4", "conv5")]
    image, conv1, pool1, conv2, pool2, conv3, conv5, pool5 = 150528, 290400, 69984, 186624, 43264, 64896, 43264, 9216
    convs = (image + conv1) + (pool1 + conv2) + (pool2 + conv3) + (conv3 + conv3) + (conv3 + conv5)
    chains = (conv1 + pool1) + (conv2 + pool2) + (conv5 + pool5)
    masks, no_gradient = conv3 + conv3, image + conv1
    assert sum(forward for forward, _ in counts) == image + convs + chains == 1_836_928
    backward = 2 * convs - no_gradient + masks + chains + (conv1 + conv2 + conv5)
    assert sum(each for _, each in counts) == backward == 2_939_200
    step = least.least(paper(), training=True)
    assert step["activations"] + step["images"] == pytest.approx(10.2e9, rel=0.01), "ten MB an image"
    assert step["optimizer"] == 5 * 4 * 60_965_224 and step["casts"] == 6 * 60_965_224
    assert sum(step.values()) == pytest.approx(12.1e9, rel=0.01)


def test_the_least_bytes_of_each_of_several_devices():
    one, two, eight = (
        least.least(paper(**{"mesh.data": d, "mesh.tower": t}), True) for d, t in ((1, 1), (1, 2), (4, 2))
    )
    assert two["weights"] * 2 == one["weights"] == 2 * eight["weights"]
    assert one["images"] == two["images"] == 4 * eight["images"]
    assert one["activations"] / 2 < two["activations"] < one["activations"] and two["sums of gradients"] == 0
    assert eight["activations"] * 4 == two["activations"] and eight["sums of gradients"] == 2 * 2 * 60_965_224 // 2
    assert least.least(paper(), training=False)["optimizer"] == 0
    split = least.least(paper(**{"mesh.data": 4, "mesh.tower": 2, "mesh.fc_sharding": "data_tower"}), True)
    convs, biases, kernels = 2_334_080 // 2, 9192 // 2, 58_621_952 // 8  # those of fc6, fc7 and fc8
    assert split["weights"] == 3 * 2 * (convs + biases + kernels)
    assert split["sums of gradients"] == 2 * 2 * (convs + biases)


@pytest.mark.parametrize("mesh", [(1, 1), (1, 2), (4, 2)])
def test_the_least_bytes_of_the_layers_are_those_of_the_step(mesh):
    config = paper(**dict(zip(("mesh.data", "mesh.tower"), mesh, strict=True)))
    assert sum(least.parts(config).values()) == sum(least.least(config, training=True).values())


def test_devices_that_cannot_be_are_refused(monkeypatch):
    for target in ("h1000", "h100:2x2", "v5e"):
        with pytest.raises(UserError, match=f"--for {target} is no known device"):
            cards.card(target)
    with pytest.raises(UserError, match="t4 has no arithmetic in bfloat16; give --dtype float32"):
        cards.peak("t4", "bfloat16", "default")
    assert cards.peak("a100", "float32", "default") == 8 * cards.peak("a100", "float32", "highest") == 156e12
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for target, extra in (("h100", "aot-gpu"), ("v5e:2x2", "aot-tpu")):
        with pytest.raises(UserError, match=rf'is not installed: pip install -e "\.\[{extra}\]"'):
            cards.devices(target, 1)


def test_what_is_shown_of_collectives_and_memory(capsys):
    """The bytes of each group of devices by themselves; a GPU fits what JAX takes of it."""
    counted = {"kind": "all-reduce", "axis": "data"}
    program: dict[str, Any] = dict.fromkeys(("kernels", "bytes", "least_bytes", "flop", "memory", "unknown_loops"), 0)
    program |= {"fits": False, "donated": None, "parts": {}, "largest": []}
    program["collectives"] = [counted | {"devices": 4, "bytes": 1e6}, counted | {"devices": 2, "bytes": 2e6}]
    keys = {"config": "paper", "batch": 8, "dtype": "float32", "device": "", "compiler": ""}
    compile_.show(keys | {"for": "a100", "mesh": "8x2", "programs": {"train": program}})
    shown = capsys.readouterr().out
    assert "over 4 devices of the axis data: 1.000 MB" in shown and "over 2 devices of the axis data: 2.000 MB" in shown
    assert "MORE THAN JAX TAKES" in shown and "those between hosts of 8 GPUs are slower" in shown
    assert cards.card("h100").usable == 0.75 * cards.card("h100").memory
    assert cards.card("v5e:2x2").usable == cards.card("v5e:2x2").memory


@pytest.mark.long
@pytest.mark.parametrize("case", aot.CASES)
def test_compiled_steps_need_what_they_needed(case):
    """To within 5 %. `python -m tests.aot` writes the table anew."""
    if not find_spec("libtpu" if ":" in case else "jax_cuda12_plugin"):
        pytest.skip("needs the extras aot-gpu and aot-tpu")
    program = f"import json; from tests import aot; print(json.dumps(aot.compiled({case!r})))"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    needs, known = json.loads(done.stdout), json.loads(aot.FILE.read_text())[case]
    assert needs["donated"] is (True if case.startswith("train") else None)
    assert needs["collectives"] == known["collectives"]
    assert needs["GB"] == pytest.approx(known["GB"], rel=0.05), (needs["GB of parts"], known["GB of parts"])
    assert needs["GB of memory"] <= 1.05 * known["GB of memory"]


@pytest.mark.long
def test_a_batch_that_has_no_room(tmp_path):
    """A TPU's compiler refuses it; a GPU's plans more than the card has."""
    if not (find_spec("jax_cuda12_plugin") and find_spec("libtpu")):
        pytest.skip("needs the extras aot-gpu and aot-tpu")
    command = [sys.executable, "-m", "alexnet_jax", "bench", "compile", "--for", "t4", "v5e:1x1", "--programs", "train"]
    command += ["--mesh=1x1", "--batch=8192", f"--json={tmp_path / 'plan.json'}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    gpu, tpu = (result["programs"]["train"] for result in json.loads((tmp_path / "plan.json").read_text()))
    assert not gpu["fits"] and gpu["bound"] == "arithmetic" and "refused" in tpu
    assert "GB of memory: MORE THAN JAX TAKES OF THE DEVICE, the state donated" in done.stdout
    assert "train: does not fit: RESOURCE_EXHAUSTED" in done.stdout


@pytest.mark.long
def test_slices_of_tpus():
    """A device is a chip, on any number of hosts."""
    if not find_spec("libtpu"):
        pytest.skip("needs the extra aot-tpu")
    program = """if True:
        from alexnet_jax.bench import cards
        cards.prepare()
        for slice in ("v4:2x2x1", "v5e:1x1", "v5e:4x4", "v5p:2x2x2", "v6e:2x4"):
            print(len(cards.devices(slice, 1)))
        cards.devices("v5e:3x5", 1)
    """
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout.split() == ["4", "1", "16", "8", "8"], done.stderr
    assert "UserError: --for v5e:3x5: 3x5 is no topology of v5e" in done.stderr
