"""Read a compiled program: its kernels, and the bytes that each moves to and from the memory of a device.

The text of the optimized, scheduled program (`jax.stages.Compiled.as_text`) lists what a device executes, in order.
Each entry reads its operands from memory and writes its results there, once, with these exceptions:

- a loop counts as often as it runs; a loop whose length the program does not say counts once, and is reported;
- an asynchronous operation, a pair of -start and -done, counts once;
- of an operand that is only cut into slices, inside a fusion or by itself, just the slices are read;
- an update of a slice in place writes just the slice, and does not read the rest;
- on a TPU, what stays in the memory of the core (VMEM, memory space 1) does not count, and an array in the device's
  memory takes the whole tiles of its layout: 48 channels of the fastest axis take the room of 128;
- custom calls, as of cuDNN or of Pallas kernels, count like everything else: by operands and results.

It is what has to move if every kernel reads each operand once. Caches may hold part of it; a kernel that reads an
operand again and again, or needs workspace, moves more.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
MOVE_NOTHING = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier"}
MOVE_NOTHING |= {"partition-id", "replica-id", "add-dependency"}
POINTERS = {"AllocateBuffer", "ConcatBitcast"}  # custom calls that only name memory
SLICES = {"slice", "dynamic-slice", "gather"}
UPDATE = "dynamic-update-slice"


class Array(NamedTuple):
    """One array of an instruction's result."""

    dtype: str
    shape: tuple[int, ...]
    layout: str  # as in 1,0:T(8,128)S(1)

    @property
    def itemsize(self) -> float:
        """Bytes of an element: pred takes one, s4 a half, a token none."""
        bits = re.search(r"\d+", self.dtype)
        return int(bits[0]) / 8 if bits else float(self.dtype == "pred")

    @property
    def size(self) -> int:
        """Bytes of the elements, without padding."""
        return math.ceil(math.prod(self.shape) * self.itemsize)

    def moved(self, tpu: bool) -> int:
        """Bytes in the device's memory: with the padding of its tiles, and nothing where it is elsewhere."""
        order, _, tiling = self.layout.partition(":")
        tile = re.search(r"T\(([\d,]+)\)", tiling)
        if tpu and re.search(r"S\([1-9]", tiling):
            return 0
        if not (tpu and tile and order):
            return self.size
        sides = [self.shape[int(axis)] for axis in order.split(",")]  # fastest first, as the next
        tiles = [int(side) for side in reversed(tile[1].split(","))]
        padded = (-(-side // tile) * tile for side, tile in itertools.zip_longest(sides, tiles, fillvalue=1))
        return math.ceil(math.prod(padded) * self.itemsize)


class Instruction(NamedTuple):
    """One operation of a program."""

    name: str
    results: list[Array]
    operation: str
    operands: list[str]
    rest: str  # the line after the operation's name
    is_root: bool

    @property
    def scope(self) -> str:
        """The names of the functions that it comes from, as jit(train_step)/jvp(vmap(Tower))/conv1/...; or ""."""
        return (re.findall(r'op_name="([^"]*)"', self.rest) or [""])[0]

    def called(self, role: str = "calls") -> str:
        """The name of the computation that it calls in a role, or ""."""
        return (re.findall(rf"\b{role}=%?([\w.\-]+)", self.rest) or [""])[0]


class Kernel(NamedTuple):
    """What a device executes at one place of a program."""

    instruction: Instruction
    scope: str  # if its own is not known, that of an operation fused in it, or else of the loop that it is in
    bytes: int  # read and written each time
    times: int

    @property
    def moved(self) -> int:  # in all
        return self.bytes * self.times


Computation: TypeAlias = dict[str, Instruction]  # name -> instruction, in order


def completed(here: Computation, instruction: Instruction) -> Instruction:
    """A -start and -done as one operation, given the -done; any other instruction as it is."""
    if not instruction.operation.endswith("-done"):
        return instruction
    operation, start = instruction.operation.removesuffix("-done"), here[instruction.operands[0]]
    return start._replace(operation=operation, results=instruction.results)


def arrays(text: str) -> list[Array]:
    """The arrays in the text of a shape, which may be a tuple."""
    found = ARRAY.findall(text)
    return [Array(dtype, tuple(int(side) for side in sides.split(",") if side), lay) for dtype, sides, lay in found]


def _operands(text: str) -> list[str]:
    """The names up to the parenthesis that closes the operands, which attributes follow."""
    return re.findall(r"%([\w.\-]+)", re.split(r"\), [\w\-]+=", text)[0])


class Program:
    """A compiled program, read from its text. `tpu`: with the memories and layouts of a TPU."""

    def __init__(self, text: str, tpu: bool = False):
        self.text, self.tpu, self.unknown_loops = text, tpu, 0
        self.computations: dict[str, Computation] = {}
        for line in text.splitlines():
            if found := COMPUTATION.match(line):
                current = self.computations[found[2]] = {}
                self.entry = found[2] if found[1] else getattr(self, "entry", "")
            elif found := INSTRUCTION.match(line):
                root, name, shape, operation, rest = found.groups()
                current[name] = Instruction(name, arrays(shape), operation, _operands(rest), rest, bool(root))

    def executed(
        self, name: str = "", times: int = 1, scope: str = ""
    ) -> Iterator[tuple[Instruction, Computation, int, str]]:
        """All that is executed, with the bodies of loops and calls; by default from the start of the program.

        With each instruction come the computation that it is in, how often it runs, and the scope of its loop or call.
        """
        here = self.computations[name or self.entry]
        for each in here.values():
            if each.operation == "while":
                count = times * self._trips(each)
                for role in ("condition", "body"):
                    yield from self.executed(each.called(role), count, each.scope or scope)
            elif each.operation in ("call", "conditional"):
                called = re.findall(r"(?:to_apply|_computation)=%?([\w.\-]+)", each.rest)
                branches = re.findall(r"branch_computations=\{(.*?)\}", each.rest)
                for name in called + re.findall(r"[\w.\-]+", " ".join(branches)):
                    yield from self.executed(name, times, each.scope or scope)
            else:
                yield each, here, times, scope

    def kernels(self) -> list[Kernel]:
        """All that moves bytes to or from the memory of the device."""
        found = []
        for each, here, times, outer_scope in self.executed():
            if moved := self._moved(here, each):
                fused = self.computations.get(each.called(), {}).values()
                scope = next(filter(None, (inner.scope for inner in (each, *fused))), outer_scope)
                found.append(Kernel(each, scope, moved, times))
        return found

    def aliases(self) -> int:
        """The number of results that take over the memory of an argument."""
        return len(re.findall(r"(?:may|must)-alias", self.text.partition("\n")[0]))

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: as the compiler notes, or else the constant that its counter stays below."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        (root,) = (instruction for instruction in condition.values() if instruction.is_root)
        constants = (condition[name] for name in root.operands if condition[name].operation == "constant")
        found = [int(limit[1]) for each in constants if (limit := re.match(r"(\d+)\)", each.rest))]
        if len(found) == 1 and "direction=LT" in root.rest:
            return found[0]
        self.unknown_loops += 1
        return 1

    def _moved(self, here: Computation, instruction: Instruction) -> int:
        instruction = completed(here, instruction)
        operation, operands = instruction.operation, list(dict.fromkeys(instruction.operands))
        if operation in MOVE_NOTHING or operation.endswith(("-start", "-update")):
            return 0
        if operation == "custom-call" and any(f'"{target}"' in instruction.rest for target in POINTERS):
            return 0
        sizes = [sum(array.moved(self.tpu) for array in here[name].results) for name in operands]
        written = [array.moved(self.tpu) for array in instruction.results]
        if operation in SLICES:
            return min(sizes[0], sum(array.size for array in instruction.results)) + sum(sizes[1:]) + sum(written)
        if operation == UPDATE:
            return 2 * min(sizes[1], sum(written))
        inside = self.computations.get(instruction.called())
        if not inside or operation not in ("fusion", "async"):
            return sum(sizes) + sum(written)
        parameters = {
            int(each.rest.partition(")")[0]): name for name, each in inside.items() if each.operation == "parameter"
        }
        read: dict[str, int] = {}
        for i, operand in enumerate(instruction.operands):
            read[operand] = max(read.get(operand, 0), self._read(inside, parameters[i], sizes[operands.index(operand)]))
        return sum(read.values()) + self._written(inside, written)

    def _read(self, here: Computation, name: str, whole: int) -> int:
        """The bytes of the value `name`, `whole` in all, that the operations of a fused computation read."""
        total = 0
        for user in (each for each in here.values() if name in each.operands):
            only_first = user.operands.index(name) == 0 and name not in user.operands[1:]
            if user.operation in SLICES and only_first:
                total += sum(array.size for array in user.results)
            elif user.operation == "bitcast":
                total += self._read(here, user.name, whole)
            elif not (user.operation == UPDATE and only_first and self._is_result(here, user)):
                return whole
        return min(total, whole)

    def _is_result(self, here: Computation, instruction: Instruction) -> bool:
        """Whether a value of a fused computation is only its result, or one of them."""
        users = [each for each in here.values() if instruction.name in each.operands]
        onward = all(each.operation in ("bitcast", "tuple") and self._is_result(here, each) for each in users)
        return onward and (instruction.is_root or bool(users))

    def _written(self, inside: Computation, results: list[int]) -> int:
        """The bytes that a fusion writes, given the sizes of its results: of an update in place, the slice."""
        (root,) = (each for each in inside.values() if each.is_root)
        values = [inside[name] for name in root.operands] if root.operation == "tuple" else [root]
        total = 0
        for i, size in enumerate(results):
            value = values[i] if len(values) == len(results) else root
            while value.operation == "bitcast" and value.operands[0] in inside:
                value = inside[value.operands[0]]
            if value.operation == UPDATE and self._is_result(inside, value):
                size = min(size, sum(array.size for array in inside[value.operands[1]].results))
            total += size
        return total
