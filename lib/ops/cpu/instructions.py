"""The innermost steps of the compiled loops, written as LLVM instructions on whole vectors.

No compiler finds these instructions in plain loops. There are four: a tile of a matrix product, a sum of outer
products, and for the flow embedding a LeakyReLU of a sum and a maximum of products. The sums stay in registers.
"""

from collections.abc import Callable
from typing import Any

from lib.ops.cpu.compiled import cpu_features, numba
from lib.ops.reference import WEIGHTS

VECTOR_BYTES = 64  # of the numbers taken at once: a register with AVX-512; elsewhere LLVM takes several
ALIGNED = 4  # bytes: an array may begin anywhere
ROWS = 4  # of a product at once: enough sums to keep the multipliers busy, few enough for the registers

if numba is None:
    outer_sum = add_leaky_relu = raise_maximum = None  # the loops that call them refuse to run

    def product_tile(rows: int, panels: int) -> None:
        """Nothing: the loops that call it refuse to run."""

else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    AVX512 = "+avx512f" in cpu_features()
    ROWS = 8 if AVX512 else 4
    INT64 = ir.IntType(64)
    REGISTER_BITS = 512 if AVX512 else 256 if "+avx2" in cpu_features() else 128
    REGISTERS_OF_SUMS = 16 if AVX512 else 8  # half of the registers, enough to hide delays

    class Addresses:
        """Addresses of elements: called with the number of an argument and indices into it. kind: the type there."""

        def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            self.context, self.builder, self.types, self.arguments = context, builder, signature.args, arguments

        def _array(self, n: int) -> Any:
            return self.context.make_array(self.types[n])(self.context, self.builder, self.arguments[n])

        def shape(self, n: int) -> list:
            """The sizes of an argument."""
            return cgutils.unpack_tuple(self.builder, self._array(n).shape)

        def __call__(self, n: int, *indices: Any, kind: Any = None) -> Any:
            found = cgutils.get_item_pointer(self.context, self.builder, self.types[n], self._array(n), indices)
            return found if kind is None else self.builder.bitcast(found, kind.as_pointer())

    def vector_of(number: Any) -> Any:
        """The vector type of ``VECTOR_BYTES`` of such numbers."""
        return ir.VectorType(number, VECTOR_BYTES // (4 if number == ir.FloatType() else 8))

    def in_every_lane(builder: Any, value: Any, vector: Any) -> Any:
        """A vector that holds the value everywhere."""
        start = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        nowhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
        return builder.shuffle_vector(start, start, nowhere)

    def zeros(builder: Any, vector: Any, count: int) -> list:
        """Places for so many sums, at zero. LLVM turns them into registers."""
        places = [cgutils.alloca_once(builder, vector) for _ in range(count)]
        for place in places:
            builder.store(ir.Constant(vector, None), place)
        return places

    def add_product(builder: Any, total: Any, one: Any, other: Any) -> None:
        """total += one * other, vectors; product and sum may be rounded in one."""
        vector = one.type
        name = f"llvm.fmuladd.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        builder.store(builder.call(function, [one, other, builder.load(total)]), total)

    def product_tile(rows: int, panels: int) -> Callable[..., None]:
        """A function for compiled loops: so many rows times the columns of so many panels of a packed matrix.

        tile(values, row, packed, panel, out, out_row, column): out[out_row + r, column + c] = sum over i of
        values[row + r, i] * matrix[c, i], c from the first column of packed[panel] on. values (R, C), packed
        (panels, >= C, vector) and out are contiguous.
        """

        @intrinsic
        def tile(
            _context: Any, values: Any, row: Any, packed: Any, panel: Any, out: Any, out_row: Any, column: Any
        ) -> Any:
            signature = types.void(values, types.int64, packed, types.int64, out, types.int64, types.int64)
            return signature, lambda *args: _tile(*args, rows, panels)

        return tile

    def _tile(context: Any, builder: Any, signature: Any, arguments: Any, rows: int, panels: int) -> Any:
        _, row, _, panel, _, out_row, column = arguments
        vector = vector_of(context.get_data_type(signature.args[0].dtype))
        address = Addresses(context, builder, signature, arguments)
        sums = [zeros(builder, vector, panels) for _ in range(rows)]
        lines = [address(0, builder.add(row, INT64(r)), INT64(0)) for r in range(rows)]
        starts = [address(2, builder.add(panel, INT64(p)), INT64(0), INT64(0), kind=vector) for p in range(panels)]
        with cgutils.for_range(builder, address.shape(0)[1]) as loop:
            columns = [builder.load(builder.gep(start, [loop.index]), align=ALIGNED) for start in starts]
            for line, totals in zip(lines, sums, strict=True):
                value = in_every_lane(builder, builder.load(builder.gep(line, [loop.index])), vector)
                for total, factor in zip(totals, columns, strict=True):
                    add_product(builder, total, value, factor)
        for r, totals in enumerate(sums):
            for p, total in enumerate(totals):
                place = builder.add(out_row, INT64(r)), builder.add(column, INT64(p * vector.count))
                builder.store(builder.load(total), address(4, *place, kind=vector), align=ALIGNED)
        return context.get_dummy_value()

    @intrinsic(prefer_literal=True)
    def outer_sum(_context: Any, values: Any, rows: Any, factors: Any, out: Any, relu: Any) -> Any:
        """out[c] = sum over k of values[rows[k], c] * factors[k] for each row c of out, then ReLU if relu (a constant).

        values (M, >= C), rows (K) int64, factors (K, 16), out (C, 16): the first and the last two of one floating-point
        type, and the numbers of a row side by side. A product and a sum may be rounded in one.
        """
        return types.void(values, rows, factors, out, relu), _outer_sum

    def _outer_sum(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, relu = context.get_value_type(signature.args[0].dtype), signature.args[4].literal_value
        size, vector = signature.args[0].dtype.bitwidth // 8, ir.VectorType(number, WEIGHTS)
        address, zero = Addresses(context, builder, signature, arguments), ir.Constant(vector, None)

        def block(column: Any, columns: int) -> None:
            sums = zeros(builder, vector, columns)
            with cgutils.for_range(builder, address.shape(1)[0]) as loop:
                row = builder.load(address(1, loop.index))
                factor = builder.load(address(2, loop.index, INT64(0), kind=vector), align=ALIGNED)
                first = address(0, row, column)
                for c, total in enumerate(sums):
                    value = builder.load(builder.gep(first, [INT64(c)]))
                    add_product(builder, total, in_every_lane(builder, value, vector), factor)
            for c, total in enumerate(sums):
                value = builder.load(total)
                if relu:
                    value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
                builder.store(value, address(3, builder.add(column, INT64(c)), INT64(0), kind=vector), align=ALIGNED)

        done, count = INT64(0), address.shape(3)[0]
        most = max(1, REGISTERS_OF_SUMS * REGISTER_BITS // (WEIGHTS * 8 * size))
        for columns in sorted({most, min(most, 4), 1}, reverse=True):  # whole blocks first, then what is left
            blocks = builder.udiv(builder.sub(count, done), INT64(columns))
            with cgutils.for_range(builder, blocks) as loop:
                block(builder.add(done, builder.mul(loop.index, INT64(columns))), columns)
            done = builder.add(done, builder.mul(blocks, INT64(columns)))
        return context.get_dummy_value()

    @intrinsic
    def add_leaky_relu(_context: Any, x: Any, i: Any, y: Any, j: Any, out: Any, k: Any, slope: Any) -> Any:
        """out[k] = LeakyReLU(x[i] + y[j]). Rows of contiguous arrays, each a whole number of vectors long."""
        return types.void(x, types.int64, y, types.int64, out, types.int64, out.dtype), _add_leaky_relu

    def _add_leaky_relu(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, i, _, j, _, k, slope = arguments
        vector = vector_of(slope.type)
        address = Addresses(context, builder, signature, arguments)
        slopes = in_every_lane(builder, slope, vector)
        with cgutils.for_range_slice(builder, INT64(0), address.shape(4)[1], INT64(vector.count)) as (c, _):
            x = builder.load(address(0, i, c, kind=vector), align=ALIGNED)
            value = builder.fadd(x, builder.load(address(2, j, c, kind=vector), align=ALIGNED))
            scaled = builder.fmul(value, slopes)
            above = builder.fcmp_ordered(">", value, scaled)
            builder.store(builder.select(above, value, scaled), address(4, k, c, kind=vector), align=ALIGNED)
        return context.get_dummy_value()

    @intrinsic
    def raise_maximum(
        _context: Any, hidden: Any, edge: Any, panels: Any, panel: Any, out: Any, query: Any, winner: Any
    ) -> Any:
        """out[query, d] = max(out[query, d], sum_c hidden[k, c] matrix[d, c]) over the ``ROWS`` edges k from edge on.

        d: those of one panel of the matrix; panels[panel] (C, vector) holds its part, transposed. All arrays are
        contiguous. Wherever the maximum rises, winner[query, d] = k; None: not wanted. A NaN among the sums makes the
        maximum NaN.
        """
        return types.void(hidden, types.int64, panels, types.int64, out, types.int64, winner), _raise_maximum

    def _raise_maximum(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, edge, _, panel, _, query, _ = arguments
        vector = vector_of(context.get_data_type(signature.args[0].dtype))
        address = Addresses(context, builder, signature, arguments)
        sums = zeros(builder, vector, ROWS)
        rows = [address(0, builder.add(edge, INT64(j)), INT64(0)) for j in range(ROWS)]
        start = address(2, panel, INT64(0), INT64(0), kind=vector)
        with cgutils.for_range(builder, address.shape(0)[1]) as loop:
            column = builder.load(builder.gep(start, [loop.index]), align=ALIGNED)
            for row, total in zip(rows, sums, strict=True):
                value = in_every_lane(builder, builder.load(builder.gep(row, [loop.index])), vector)
                add_product(builder, total, value, column)
        sums = [builder.load(total) for total in sums]
        place = builder.mul(panel, INT64(vector.count))
        target = address(4, query, place, kind=vector)
        best = builder.load(target, align=ALIGNED)
        lost = builder.fcmp_unordered("uno", best, best)
        for one, two in zip(sums[::2], sums[1::2], strict=True):
            lost = builder.or_(lost, builder.fcmp_unordered("uno", one, two))
        tracked = signature.args[6] != types.none
        if tracked:
            numbers = ir.VectorType(ir.IntType(32), vector.count)
            winners = address(6, query, place, kind=numbers)
            who = builder.load(winners, align=ALIGNED)
        for j, total in enumerate(sums):
            rises = builder.fcmp_ordered(">", total, best)
            best = builder.select(rises, total, best)
            if tracked:
                number = builder.trunc(builder.add(edge, INT64(j)), numbers.element)
                who = builder.select(rises, in_every_lane(builder, number, numbers), who)
        nan = ir.Constant(vector, [float("nan")] * vector.count)
        builder.store(builder.select(lost, nan, best), target, align=ALIGNED)
        if tracked:
            builder.store(who, winners, align=ALIGNED)
        return context.get_dummy_value()
