"""What a compiled program does, counted from its HLO text with the trip counts of its loops.

A compiler's own analysis counts the body of a loop once, and for a GPU that is not there it gives none. The text is
what `jax.stages.Compiled.as_text` returns for a CPU, a GPU or a TPU.
"""

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
MOST_TRIPS = 100_000
"""A loop whose counter is followed for longer counts as unknown."""

_ELEMENTWISE = frozenset(
    "abs add and atan2 cbrt ceil clamp clz compare convert cosine divide erf exponential exponential-minus-one floor "
    "imag is-finite log log-plus-one logistic maximum minimum multiply negate not or popcnt power real remainder "
    "reduce-precision round-nearest-afz round-nearest-even rsqrt select shift-left shift-right-arithmetic "
    "shift-right-logical sign sine sqrt stochastic-convert subtract tan tanh xor".split()
)
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id opt-barrier "
    "optimization-barrier add-dependency domain async-update".split()
)
_UNKNOWN = frozenset(("sort", "fft", "cholesky", "triangular-solve"))
"""Operations whose arithmetic depends on more than shapes."""
_ALIASES = frozenset(("bitcast", "reshape"))
_SLICING = frozenset(("slice", "dynamic-slice", "gather"))
_BOOKKEEPING = frozenset(
    "Sharding SPMDFullToShardShape SPMDShardToFullShape AllocateBuffer LayoutConstraint AssumeGatherIndicesInBound "
    "ConcatBitcast".split()
)
"""Targets of custom calls where nothing runs."""
_SCALARS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "maximum": max,
    "minimum": min,
    "and": operator.and_,
    "or": operator.or_,
}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
_BITS = {"pred": 8, "token": 0, "opaque": 0}

_SHAPE = re.compile(r"([a-z]+\d*\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_COMMENT = re.compile(r"/\*[^*]*\*/")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Counts:
    """What a program does on one device, the bodies of loops as often as they run.

    Attributes:
        flops: floating-point operations: two for each product of a dot or convolution whose factors both exist (not
            those with padding), one for each element of an elementwise result (functions, comparisons, selections and
            conversions alike), and those of a reduction's function for each element that it takes in.
        bytes_accessed: operands and results of everything that is launched. Of what is sliced, or written in place,
            only the part counts. On a TPU the padding of tiles counts, and values that are kept on the chip do not.
        launches: kernels, library calls, copies and exchanges.
        loops: trips of each loop each time it is reached, an inner one after its outer; None where they are unknown.
        collectives: how often devices communicate, by kind.
        cycles: those that the TPU compiler estimates; None where it estimates none.
        not_counted: library calls and operations whose arithmetic is unknown, by name.
    """

    flops: float
    bytes_accessed: float
    launches: int
    loops: tuple[int | None, ...]
    collectives: Mapping[str, int]
    cycles: int | None
    not_counted: tuple[str, ...]

    @property
    def unknown_loops(self) -> int:
        """How many loops have unknown trips; what they do is counted once."""
        return sum(trips is None for trips in self.loops)


def count_program(program: str) -> Counts:
    """Counts what a compiled program does.

    Of a conditional the branch with the most arithmetic counts, and of several such the one with the most traffic. The
    conditions of loops are left out: they compare a counter. Trips are those that the compiler names, and else those
    of a counter that begins at a constant.

    Args:
        program: HLO text of a compiled (scheduled) module.

    Returns:
        The counts.

    Raises:
        ValueError: the text has no entry computation.
    """
    module = _Module(program)
    tally = _count_computation(module, module.entry, ())
    collectives = {kind: tally.collectives[kind] for kind in COLLECTIVES}
    cycles = tally.cycles if '"estimated_cycles"' in program else None
    not_counted = tuple(sorted(module.not_counted))
    return Counts(tally.flops, tally.bytes, tally.launches, tuple(tally.loops), collectives, cycles, not_counted)


class _Array(NamedTuple):
    """The shape of one array.

    Attributes:
        sides: along each axis.
        size: bytes that it takes, with the padding of tiles.
        on_chip: whether it is kept on the chip.
    """

    sides: tuple[int, ...]
    size: int
    on_chip: bool

    @property
    def elements(self) -> int:
        """The product of the sides."""
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """Moved when it is read or written."""
        return 0 if self.on_chip else self.size


_Shape = _Array | tuple["_Shape", ...]


class _Instruction(NamedTuple):
    name: str
    opcode: str
    shape: _Shape
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def called(self, key: str) -> str | None:
        """The computation that an attribute names."""
        return self.attribute(rf"\b{key}=%?([\w.\-]+)")

    def integers(self, key: str) -> tuple[int, ...]:
        """The list of an attribute such as `lhs_contracting_dims={1,2}`."""
        return tuple(map(int, filter(None, (self.attribute(rf"\b{key}={{([\d,]*)}}") or "").split(","))))


class _Computation:
    """Instructions by name, in their order, the result, and what each parameter is called."""

    def __init__(self) -> None:
        self.instructions: dict[str, _Instruction] = {}
        self.root = ""

    @cached_property
    def parameters(self) -> dict[int, str]:
        return {int(found.literal): found.name for found in self.instructions.values() if found.opcode == "parameter"}

    @cached_property
    def users(self) -> dict[str, list[_Instruction]]:
        users: dict[str, list[_Instruction]] = {}
        for found in self.instructions.values():
            for operand in dict.fromkeys(found.operands):
                users.setdefault(operand, []).append(found)
        return users

    def operand(self, instruction: _Instruction, index: int) -> _Array:
        """The shape of an operand that is one array."""
        return _one(self.instructions[instruction.operands[index]].shape)


class _Module:
    """The computations of a program by name, and the arithmetic of those that were asked for."""

    def __init__(self, program: str) -> None:
        self.computations: dict[str, _Computation] = {}
        self.entry = ""
        self.not_counted: set[str] = set()
        self._flops: dict[str, float] = {}
        current: _Computation | None = None
        for line in program.splitlines():
            if current is not None and (head := _LINE.match(line)):
                instruction = _parse_instruction(head[2], _COMMENT.sub("", line[head.end() :]))
                current.instructions[head[2]] = instruction
                current.root = head[2] if head[1] else current.root
            elif (head := _HEAD.match(line)) and not line.startswith("HloModule"):
                current = self.computations[head[1]] = _Computation()
                self.entry = head[1] if line.startswith("ENTRY") else self.entry
            elif line.startswith("}"):
                current = None
        if not self.entry:
            raise ValueError("a program in HLO text has an ENTRY computation; this text has none")

    def flops(self, name: str) -> float:
        """The arithmetic of a computation that is fused, or called for every element."""
        if name not in self._flops:
            computation = self.computations[name]
            self._flops[name] = sum(_flops(self, computation, found) for found in computation.instructions.values())
        return self._flops[name]

    def collectives(self, name: str) -> Counter[str]:
        """The exchanges of a computation that is fused."""
        found: Counter[str] = Counter()
        for instruction in self.computations[name].instructions.values():
            if instruction.opcode == "fusion":
                found += self.collectives(instruction.called("calls") or "")
            elif instruction.opcode in COLLECTIVES:
                # A TPU's compiler divides what it has summed in one exchange, and names the computation so.
                found["reduce-scatter" if name.startswith("all-reduce-scatter") else instruction.opcode] += 1
        return found


def _parse_instruction(name: str, rest: str) -> _Instruction:
    """Reads what follows `name = `: the shape, the opcode, the operands and the attributes."""
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opened = rest.index("(", end)
    closed = _closing(rest, opened)
    inside = rest[opened + 1 : closed - 1]
    opcode, attributes = rest[end:opened].strip(), rest[closed:]
    operands = () if opcode == "constant" else tuple(_NAME.findall(inside))
    return _Instruction(name, opcode, _parse_shape(rest[:end]), operands, inside, attributes)


def _closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at the start."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    raise ValueError(f"an HLO instruction closes its brackets: {text[:80]}")


@cache
def _parse_shape(text: str) -> _Shape:
    """Reads `f32[2,3]{1,0}`, or a tuple of such."""
    text = text.strip()
    if not text.startswith("("):
        return _parse_array(text)
    parts, depth, start = [], 0, 1
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if (depth == 1 and character == ",") or (depth == 0 and place > start):
            parts.append(text[start:place])
            start = place + 1
    return tuple(_parse_shape(part) for part in parts)


def _parse_array(text: str) -> _Array:
    found = _SHAPE.match(text)
    if not found:
        raise ValueError(f"an array in HLO text has a type and sides: {text[:80]}")
    kind, sides_text, layout = found[1], found[2], found[3] or ""
    sides = tuple(int(side.removeprefix("<=")) for side in sides_text.split(",") if side)
    bits = _BITS[kind] if kind in _BITS else int(re.findall(r"\d+", kind)[0])
    moved = list(sides)
    if tile := re.search(r"T\(([\d,]+)\)", layout):  # a TPU's: the innermost axes are filled up to whole tiles
        order = [int(axis) for axis in layout.split(":")[0].split(",") if axis]
        for axis, side in zip(order, reversed([int(side) for side in tile[1].split(",")]), strict=False):
            moved[axis] = -(-sides[axis] // side) * side
    on_chip = tile is not None and re.search(r"S\((?!5\))[1-9]", layout) is not None  # 5 is the host
    return _Array(sides, -(-math.prod(moved) * bits // 8), on_chip)


def _arrays(shape: _Shape) -> Iterator[_Array]:
    """All arrays of a shape."""
    if isinstance(shape, _Array):
        yield shape
    else:
        for part in shape:
            yield from _arrays(part)


def _one(shape: _Shape) -> _Array:
    """The array, or the first of a tuple, which is the result of a library call beside its workspace."""
    return next(_arrays(shape))


def _bytes(shape: _Shape) -> int:
    return sum(array.bytes for array in _arrays(shape))


@dataclass
class _Tally:
    """Counts that grow."""

    flops: float = 0
    bytes: int = 0
    launches: int = 0
    cycles: int = 0
    loops: list[int | None] = field(default_factory=list)
    collectives: Counter[str] = field(default_factory=Counter)

    def add(self, other: "_Tally", times: int = 1) -> None:
        """Adds what runs so many times; its loops are listed once."""
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        self.launches += times * other.launches
        self.cycles += times * other.cycles
        self.loops += other.loops
        self.collectives.update({kind: times * number for kind, number in other.collectives.items()})


# Where a value is unknown there is None; the value of a tuple is the tuple of its parts' values.
_Value = int | tuple["_Value", ...] | None


def _count_computation(module: _Module, name: str, arguments: Sequence[_Value]) -> _Tally:
    """Counts what runs when a computation is called that is not fused."""
    tally, computation = _Tally(), module.computations[name]
    for instruction in computation.instructions.values():
        opcode = instruction.opcode
        if opcode == "while":
            _count_loop(module, computation, instruction, arguments, tally)
        elif opcode == "conditional":
            branches = [_count_computation(module, branch, ()) for branch in _branches(instruction)]
            tally.add(max(branches, key=lambda branch: (branch.flops, branch.bytes)))
        elif opcode == "call" or opcode == "async-start":
            called = instruction.called("to_apply") or instruction.called("calls")
            values = _Values(module, computation, arguments)
            given = tuple(values.of(operand) for operand in instruction.operands)
            tally.add(_count_computation(module, called or "", given))
        elif opcode not in _FREE and opcode != "async-done":
            _count_launch(module, computation, instruction, tally)
    return tally


def _branches(instruction: _Instruction) -> list[str]:
    listed = instruction.attribute(r"branch_computations={([^}]*)}")
    if listed is not None:
        return [name.strip().removeprefix("%") for name in listed.split(",")]
    named = (instruction.called("true_computation"), instruction.called("false_computation"))
    return [name for name in named if name]


def _count_loop(
    module: _Module, outer: _Computation, instruction: _Instruction, arguments: Sequence[_Value], tally: _Tally
) -> None:
    body, condition = instruction.called("body") or "", instruction.called("condition") or ""
    start = _Values(module, outer, arguments).of(instruction.operands[0])
    named = instruction.attribute(r'"known_trip_count":{"n":"(\d+)"')
    trips = int(named) if named else _follow_counter(module, body, condition, start)
    tally.loops.append(trips)
    tally.add(_count_computation(module, body, (_kept(module, body, start),)), 1 if trips is None else trips)


def _follow_counter(module: _Module, body: str, condition: str, state: _Value) -> int | None:
    """Runs what is known of a loop, its counter, until the loop ends; None where its end is not known."""
    for trips in range(MOST_TRIPS):
        goes_on = _Values(module, module.computations[condition], (state,)).result()
        if not isinstance(goes_on, int):
            return None
        if not goes_on:
            return trips
        state = _Values(module, module.computations[body], (state,)).result()
    return None


def _kept(module: _Module, body: str, start: _Value) -> _Value:
    """What is known of a loop's state in every trip: the parts that the body hands on as they are."""
    computation = module.computations[body]
    root = computation.instructions[computation.root]
    if not isinstance(start, tuple) or root.opcode != "tuple":
        return None
    sources = [computation.instructions[operand] for operand in root.operands]
    same = [source.opcode == "get-tuple-element" and _index(source) == place for place, source in enumerate(sources)]
    return tuple(value if kept else None for value, kept in zip(start, same, strict=True))


def _index(instruction: _Instruction) -> int:
    return int(instruction.attribute(r"\bindex=(\d+)") or 0)


class _Values:
    """The whole numbers of a computation that are known before it runs: constants, and what follows from them."""

    def __init__(self, module: _Module, computation: _Computation, arguments: Sequence[_Value]) -> None:
        self._module, self._computation, self._arguments = module, computation, arguments
        self._known: dict[str, _Value] = {}

    def result(self) -> _Value:
        """The value of the computation."""
        return self.of(self._computation.root)

    def of(self, name: str) -> _Value:
        """The value of an instruction."""
        if name not in self._known:
            self._known[name] = self._evaluate(self._computation.instructions[name])
        return self._known[name]

    def _evaluate(self, instruction: _Instruction) -> _Value:
        opcode, operands = instruction.opcode, instruction.operands
        if isinstance(instruction.shape, _Array) and instruction.shape.sides:
            return None
        if opcode == "constant":
            literal = {"true": "1", "false": "0"}.get(instruction.literal, instruction.literal)
            return int(literal) if re.fullmatch(r"-?\d+", literal) else None
        if opcode == "parameter":
            place = int(instruction.literal)
            return self._arguments[place] if place < len(self._arguments) else None
        if opcode == "tuple":
            return tuple(map(self.of, operands))
        if opcode == "get-tuple-element":
            whole = self.of(operands[0])
            return whole[_index(instruction)] if isinstance(whole, tuple) else None
        if opcode in ("copy", "bitcast", "convert", "reshape"):
            return self.of(operands[0])
        if opcode in ("fusion", "call"):
            called = self._module.computations[instruction.called("calls") or instruction.called("to_apply") or ""]
            return _Values(self._module, called, tuple(map(self.of, operands))).result()
        if opcode == "compare" or opcode in _SCALARS:
            first, second = map(self.of, operands)
            if not isinstance(first, int) or not isinstance(second, int):
                return None
            if opcode == "compare":
                return int(_COMPARISONS[instruction.attribute(r"direction=(\w+)") or ""](first, second))
            return _SCALARS[opcode](first, second)
        return None


def _count_launch(module: _Module, computation: _Computation, instruction: _Instruction, tally: _Tally) -> None:
    """Counts one kernel, library call, copy or exchange; what is started and ends apart is written where it ends."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "custom-call" and _target(instruction) in _BOOKKEEPING:
        return
    if opcode.endswith("-done"):
        tally.bytes += _bytes(instruction.shape)
        return
    tally.launches += 1
    tally.cycles += int(instruction.attribute(r'"estimated_cycles":"(\d+)"') or 0)
    if opcode == "fusion":
        tally.collectives += module.collectives(instruction.called("calls") or "")
    tally.collectives[opcode] += opcode in COLLECTIVES
    tally.flops += _flops(module, computation, instruction)
    distinct = dict(zip(reversed(instruction.operands), reversed(range(len(instruction.operands))), strict=True))
    tally.bytes += sum(_bytes_read(module, computation, instruction, index) for index in distinct.values())
    if opcode == instruction.opcode:
        tally.bytes += _bytes_written(module, computation, instruction)


def _bytes_read(module: _Module, computation: _Computation, instruction: _Instruction, index: int) -> int:
    """What an instruction reads of one operand."""
    name, opcode = instruction.operands[index], instruction.opcode.removesuffix("-start")
    if opcode == "fusion":
        fused = module.computations[instruction.called("calls") or ""]
        return _bytes_used(module, fused, fused.parameters[index], fused.parameters[index])
    shape = computation.instructions[name].shape
    if index == 0 and (part := _part(computation, instruction)) is not None:
        return 0 if opcode == "dynamic-update-slice" or _one(shape).on_chip else part.size
    return _bytes(shape)


def _part(computation: _Computation, instruction: _Instruction) -> _Array | None:
    """The part of its first operand that an instruction reads or writes, where that is not the whole."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in _SLICING:
        shape = instruction.shape
        return _one(shape if opcode == instruction.opcode or isinstance(shape, _Array) else shape[1])
    if opcode == "dynamic-update-slice":
        return computation.operand(instruction, 1)
    if opcode == "scatter":
        return computation.operand(instruction, -1)
    return None


def _bytes_used(module: _Module, fused: _Computation, parameter: str, name: str) -> int:
    """What a fusion reads of a parameter by one of its names: all of it, unless it is only sliced or written over."""
    whole, used = _bytes(fused.instructions[parameter].shape), 0
    if name == fused.root:
        return whole
    for user in fused.users.get(name, []):
        places = [place for place, operand in enumerate(user.operands) if operand == name]
        if user.opcode in _ALIASES:
            used += _bytes_used(module, fused, parameter, user.name)
        elif user.opcode == "fusion" or (places == [0] and _part(fused, user) is not None):
            used += sum(_bytes_read(module, fused, user, place) for place in places)
        else:
            return whole
    return min(used, whole)


def _bytes_written(module: _Module, computation: _Computation, instruction: _Instruction) -> int:
    """What an instruction writes."""
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called("calls") or ""]
        root = fused.instructions[fused.root]
        results = [fused.instructions[operand] for operand in root.operands] if root.opcode == "tuple" else [root]
        return sum(_bytes_written(module, fused, result) for result in results)
    named = instruction
    if instruction.opcode in _ALIASES:
        named = computation.instructions[instruction.operands[0]]
    part = None if named.opcode in _SLICING else _part(computation, named)
    return _bytes(instruction.shape) if part is None or _one(instruction.shape).on_chip else part.size


def _target(instruction: _Instruction) -> str:
    return instruction.attribute(r'custom_call_target="([^"]*)"') or ""


def _flops(module: _Module, computation: _Computation, instruction: _Instruction) -> float:
    """The arithmetic of one instruction."""
    opcode = instruction.opcode.removesuffix("-start")
    result = next(_arrays(instruction.shape), None)
    if result is None or opcode in _FREE:
        return 0
    if opcode in _ELEMENTWISE:
        return result.elements
    if opcode == "fusion":
        return module.flops(instruction.called("calls") or "")
    if opcode == "dot":
        sides = computation.operand(instruction, 0).sides
        return 2 * result.elements * math.prod(sides[axis] for axis in instruction.integers("lhs_contracting_dims"))
    if opcode == "convolution":
        given, kernel = (computation.operand(instruction, index) for index in (0, 1))
        return _convolution(instruction, given, kernel, result)
    if opcode == "custom-call":
        return _library_call(module, computation, instruction, result)
    if opcode in ("reduce", "reduce-window", "scatter", "map"):
        times = {
            "reduce": lambda: computation.operand(instruction, 0).elements - result.elements,
            "reduce-window": lambda: result.elements * (math.prod(_window(instruction, "size", 1)) - 1),
            "scatter": lambda: computation.operand(instruction, -1).elements,
            "map": lambda: result.elements,
        }
        return times[opcode]() * module.flops(instruction.called("to_apply") or "")
    if opcode in _UNKNOWN:
        module.not_counted.add(opcode)
    return 0


def _library_call(module: _Module, computation: _Computation, instruction: _Instruction, result: _Array) -> float:
    """The arithmetic of cuDNN's convolutions and cuBLAS's products; other targets are noted."""
    target = _target(instruction)
    if target.startswith("__cudnn$conv"):
        first, second = (computation.operand(instruction, index) for index in (0, 1))
        # Window and labels are those of the forward convolution of an input and a kernel, whatever is computed.
        if target.startswith("__cudnn$convBackwardInput"):
            return _convolution(instruction, result, second, first)
        if target.startswith("__cudnn$convBackwardFilter"):
            return _convolution(instruction, first, result, second)
        return _convolution(instruction, first, second, result)
    contracted = instruction.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
    if target.startswith("__cublas$") and contracted is not None:
        sides = computation.operand(instruction, 0).sides
        return 2 * result.elements * math.prod(sides[int(axis)] for axis in re.findall(r"\d+", contracted))
    if target not in _BOOKKEEPING:
        module.not_counted.add(target)
    return 0


def _window(instruction: _Instruction, key: str, axes: int) -> list[int]:
    """Numbers of a window such as `size=3x3x3`, one for each axis; ones where it does not have them."""
    found = instruction.attribute(rf"window={{[^}}]*\b{key}=([\dx]+)")
    return [int(number) for number in found.split("x")] if found else [1] * axes


def _convolution(instruction: _Instruction, given: _Array, kernel: _Array, result: _Array) -> float:
    """Two operations for each product of an input element and a kernel element, which is not one with padding."""
    labels = instruction.attribute(r"dim_labels=([\w?]+_[\w?]+->[\w?]+)") or ""
    of_given, of_kernel, of_result = re.split(r"_|->", labels)
    axes = sum(label.isdigit() for label in of_given)
    found = instruction.attribute(r"window={[^}]*\bpad=([-\dx_]+)")
    before = [int(pad.split("_")[0]) for pad in found.split("x")] if found else [0] * axes
    keys = ("size", "stride", "lhs_dilate", "rhs_dilate")
    size, stride, dilated, apart = (_window(instruction, key, axes) for key in keys)
    products = 1
    for axis in range(axes):
        sides = (given.sides[of_given.index(str(axis))], result.sides[of_result.index(str(axis))])
        products *= _products_along(*sides, size[axis], stride[axis], before[axis], dilated[axis], apart[axis])
    batch = given.sides[of_given.index("b")] // int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    features = kernel.sides[of_kernel.index("i")] * result.sides[of_result.index("f")]
    return 2 * batch * features * products


@cache
def _products_along(given: int, result: int, size: int, stride: int, before: int, dilated: int, apart: int) -> int:
    """How many pairs of a result's and a kernel's position along an axis meet an element of the input."""
    products = 0
    for place in range(result):
        for tap in range(size):
            position = place * stride - before + tap * apart
            products += position % dilated == 0 and 0 <= position // dilated < given
    return products
