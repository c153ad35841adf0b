"""A sum of outer products that stays in registers: the heart of a PointConv's aggregation and of its weight net.

It becomes part of the loops that call it, and numba keeps those by the date of their own file: when this file changes,
touch its callers ``pointconv.py`` and ``weight_net.py`` as well, and theirs.
"""

from typing import Any

from lib.ops.compiled import cpu_features, numba

WIDTH = 16  # factors of a row: a vector of AVX-512 in float32, several vectors elsewhere

if numba is None:
    outer_sum = None  # the loops that call it refuse to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

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
        kinds = signature.args[:4]
        arrays = [context.make_array(k)(context, builder, a) for k, a in zip(kinds, arguments[:4], strict=True)]
        number, relu = context.get_value_type(kinds[0].dtype), signature.args[4].literal_value
        vector, size = ir.VectorType(number, WIDTH), kinds[0].dtype.bitwidth // 8
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
        zero = ir.Constant(vector, None)
        muladd = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{WIDTH}f{8 * size}"
        )

        def address(n: int, *place: Any, kind: Any = vector) -> Any:
            pointer = cgutils.get_item_pointer(context, builder, kinds[n], arrays[n], place)
            return builder.bitcast(pointer, kind.as_pointer())

        def block(column: Any, columns: int) -> None:
            sums = [cgutils.alloca_once(builder, vector) for _ in range(columns)]  # LLVM turns them into registers
            for total in sums:
                builder.store(zero, total)
            with cgutils.for_range(builder, arrays[1].nitems) as loop:
                row = builder.load(address(1, loop.index, kind=loop.index.type))
                factor = builder.load(address(2, loop.index, loop.index.type(0)), align=size)
                first = address(0, row, column, kind=number)
                for c, total in enumerate(sums):
                    value = builder.load(builder.gep(first, [loop.index.type(c)]))
                    value = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
                    value = builder.shuffle_vector(value, value, lanes)  # the same in all lanes
                    builder.store(builder.call(muladd, [value, factor, builder.load(total)]), total)
            for c, total in enumerate(sums):
                value = builder.load(total)
                if relu:
                    value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
                builder.store(value, address(3, builder.add(column, column.type(c)), column.type(0)), align=size)

        done, count = arrays[1].nitems.type(0), builder.extract_value(arrays[3].shape, 0)
        most = max(1, SUMS * VECTOR_BITS // (WIDTH * 8 * size))
        for columns in sorted({most, min(most, 4), 1}, reverse=True):  # whole blocks first, then what is left
            blocks = builder.udiv(builder.sub(count, done), done.type(columns))
            with cgutils.for_range(builder, blocks) as loop:
                block(builder.add(done, builder.mul(loop.index, done.type(columns))), columns)
            done = builder.add(done, builder.mul(blocks, done.type(columns)))
        return context.get_dummy_value()
