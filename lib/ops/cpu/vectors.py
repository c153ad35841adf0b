"""Vectors of ``LANES`` numbers in compiled loops: what LLVM does not find by itself.

``load`` and ``spread`` make them; +, -, *, < and <= take two.
"""

import operator
from typing import Any

from lib.ops.cpu.compiled import numba

LANES = 16  # as many numbers of 32 bits as a register of AVX-512 holds

if numba is None:
    load = store = spread = narrow = larger = count_chosen = add_where = compress = (
        None  # the loops that call them refuse to run
    )
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.core.typing import signature
    from numba.core.typing.templates import AbstractTemplate, infer_global
    from numba.extending import intrinsic, lower_builtin, models, register_model

    from lib.ops.cpu.instructions import AVX512, INT64, in_every_lane

    LANE_BITS = ir.IntType(LANES)  # a comparison's outcome, a bit a lane

    class Vector(types.Type):
        """Type of a vector: its numbers are of the numba type ``of``, boolean for the outcome of a comparison."""

        def __init__(self, of: types.Type):
            self.of = of
            super().__init__(name=f"Vector({of})")

    @register_model(Vector)
    class VectorModel(models.PrimitiveModel):
        """A vector is held in a register."""

        def __init__(self, manager: Any, vector: Vector):
            lane = ir.IntType(1) if vector.of == types.boolean else manager[vector.of].get_value_type()
            super().__init__(manager, vector, ir.VectorType(lane, LANES))

    def _operator(symbol: Any, generate: Any, compares: bool = False) -> None:
        """Makes ``symbol`` an operator of two vectors of one type."""

        @infer_global(symbol)
        class _Typed(AbstractTemplate):
            def generic(self, args: Any, _kws: Any) -> Any:
                if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                    return signature(Vector(types.boolean) if compares else args[0], *args)
                return None

        @lower_builtin(symbol, Vector, Vector)
        def _lowered(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return generate(builder, *args)

    _operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
    _operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
    _operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
    _operator(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), compares=True)
    _operator(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), compares=True)

    def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: Any) -> Any:
        data = context.make_array(array_type)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())

    @intrinsic
    def load(_context: Any, array: Any, start: Any) -> Any:
        """The numbers array[start : start + LANES]; the array is one-dimensional and contiguous."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_value_type(signature.return_type)
            return builder.load(_address(context, builder, signature.args[0], *args, kind), align=4)

        return Vector(array.dtype)(array, types.int64), generate

    @intrinsic
    def store(_context: Any, vector: Any, array: Any, start: Any) -> Any:
        """array[start : start + LANES] = vector."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector, array, start = args
            address = _address(context, builder, signature.args[1], array, start, vector.type)
            builder.store(vector, address, align=4)
            return context.get_dummy_value()

        return types.void(vector, array, types.int64), generate

    @intrinsic
    def spread(_context: Any, number: Any) -> Any:
        """The number in every lane."""

        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return in_every_lane(builder, args[0], ir.VectorType(args[0].type, LANES))

        return Vector(number)(number), generate

    @intrinsic
    def narrow(_context: Any, vector: Any) -> Any:
        """Float64 rounded to float32."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fptrunc(args[0], context.get_value_type(signature.return_type))

        return Vector(types.float32)(vector), generate

    @intrinsic
    def larger(_context: Any, a: Any, b: Any) -> Any:
        """The larger one of each two numbers."""

        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", *args), *args)

        return a(a, b), generate

    @intrinsic
    def count_chosen(_context: Any, chosen: Any) -> Any:
        """How many lanes a comparison holds for."""

        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.zext(builder.ctpop(builder.bitcast(args[0], LANE_BITS)), INT64)

        return types.int64(chosen), generate

    @intrinsic
    def add_where(_context: Any, numbers: Any, chosen: Any) -> Any:
        """Integers, one more where a comparison holds."""

        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.add(args[0], builder.zext(args[1], args[0].type))

        return numbers(numbers, chosen), generate

    @intrinsic
    def compress(_context: Any, vector: Any, chosen: Any, out: Any, place: Any) -> Any:
        """Moves the numbers (of 32 bits) of the chosen lanes to out[place:].

        Whatever out held in the ``LANES`` places from ``place`` on is lost. One instruction with AVX-512, a loop
        elsewhere.
        """
        return types.void(vector, chosen, out, types.int64), _compress

    def _compress(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, chosen, out, place = args
        lane_type = vector.type.element
        if AVX512:
            name = f"llvm.experimental.vector.compress.v{LANES}{'f' if lane_type == ir.FloatType() else 'i'}32"
            kind = ir.FunctionType(vector.type, [vector.type, chosen.type, vector.type])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            packed = builder.call(function, [vector, chosen, ir.Constant(vector.type, ir.Undefined)])
            builder.store(packed, _address(context, builder, signature.args[2], out, place, vector.type), align=4)
        else:  # LLVM's stand-in for the instruction is slow: one by one, the next takes the place of one that is not
            any_chosen = builder.icmp_unsigned("!=", builder.bitcast(chosen, LANE_BITS), LANE_BITS(0))
            with builder.if_then(any_chosen):
                for lane in range(LANES):
                    index = ir.IntType(32)(lane)
                    address = _address(context, builder, signature.args[2], out, place, lane_type)
                    builder.store(builder.extract_element(vector, index), address)
                    place = builder.add(place, builder.zext(builder.extract_element(chosen, index), INT64))
        return context.get_dummy_value()
