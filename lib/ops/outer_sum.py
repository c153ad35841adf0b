"""A sum of outer products that stays in registers: the heart of a PointConv's aggregation and of its weight net."""

from typing import Any

from lib.ops.compiled import cpu_features, numba

WIDTH = 16  # factors of a row: a vector of AVX-512 in float32, several vectors elsewhere

if numba is None:
    outer_sum = None  # the loops that call it refuse to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    from lib.ops.registers import ALIGNED, WHOLE, Addresses, add_product, in_every_lane, zeros

    VECTOR_BITS = 512 if "+avx512f" in cpu_features() else 256 if "+avx2" in cpu_features() else 128
    SUMS = 16 if VECTOR_BITS == 512 else 8  # vectors of sums at once: half of the registers, enough to hide delays

    @intrinsic(prefer_literal=True)
    def outer_sum(_context: Any, values: Any, rows: Any, factors: Any, out: Any, relu: Any) -> Any:
        """out[c] = sum over k of values[rows[k], c] * factors[k] for each row c of out, then ReLU if relu (a constant).

        values (M, >= C), rows (K) int64, factors (K, 16), out (C, 16): the first and the last two of one floating-point
        type, and the numbers of a row side by side. A product and a sum may be rounded in one.
        """
        return types.void(values, rows, factors, out, relu), _outer_sum

    def _outer_sum(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, relu = context.get_value_type(signature.args[0].dtype), signature.args[4].literal_value
        size, vector = signature.args[0].dtype.bitwidth // 8, ir.VectorType(number, WIDTH)
        address, zero = Addresses(context, builder, signature, arguments), ir.Constant(vector, None)

        def block(column: Any, columns: int) -> None:
            sums = zeros(builder, vector, columns)
            with cgutils.for_range(builder, address.shape(1)[0]) as loop:
                row = builder.load(address(1, loop.index))
                factor = builder.load(address(2, loop.index, WHOLE(0), kind=vector), align=ALIGNED)
                first = address(0, row, column)
                for c, total in enumerate(sums):
                    value = builder.load(builder.gep(first, [WHOLE(c)]))
                    add_product(builder, total, in_every_lane(builder, value, vector), factor)
            for c, total in enumerate(sums):
                value = builder.load(total)
                if relu:
                    value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
                builder.store(value, address(3, builder.add(column, WHOLE(c)), WHOLE(0), kind=vector), align=ALIGNED)

        done, count = WHOLE(0), address.shape(3)[0]
        most = max(1, SUMS * VECTOR_BITS // (WIDTH * 8 * size))
        for columns in sorted({most, min(most, 4), 1}, reverse=True):  # whole blocks first, then what is left
            blocks = builder.udiv(builder.sub(count, done), WHOLE(columns))
            with cgutils.for_range(builder, blocks) as loop:
                block(builder.add(done, builder.mul(loop.index, WHOLE(columns))), columns)
            done = builder.add(done, builder.mul(blocks, WHOLE(columns)))
        return context.get_dummy_value()
