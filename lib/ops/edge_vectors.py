"""Vector instructions of the flow embedding: a sum and its LeakyReLU, and the maximum of a few edges' products.

They become part of the loops that call them, and numba keeps those by the date of their own file: when this file
changes, touch ``flow_embedding.py`` as well.
"""

from typing import Any

from lib.ops.compiled import cpu_features, numba

VECTOR_BYTES = 64  # of the numbers taken at once; where registers are shorter, LLVM takes several

if numba is None:
    BLOCK, add_and_bend, raise_maximum = 1, None, None  # the loops that call them refuse to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    # Edges multiplied at once: enough sums to keep the multipliers busy, few enough for the registers. One vector of
    # eight edges is quicker than two or four of them with AVX-512, one of four edges than any other with AVX2.
    BLOCK = 8 if "+avx512f" in cpu_features() else 4
    WHOLE = ir.IntType(64)
    ALIGNED = 4  # bytes: an array may begin anywhere

    @intrinsic
    def add_and_bend(_context: Any, x: Any, i: Any, y: Any, j: Any, out: Any, k: Any, slope: Any) -> Any:
        """out[k] = LeakyReLU(x[i] + y[j]), rows of contiguous arrays and of whole vectors."""
        whole = types.int64
        return types.void(x, whole, y, whole, out, whole, out.dtype), _add_and_bend

    def _add_and_bend(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, i, _, j, _, k, slope = arguments
        vector = _vector(slope.type)
        address = _Addresses(context, builder, signature, arguments)
        slopes = _spread(builder, slope, vector)
        with cgutils.for_range_slice(builder, WHOLE(0), address.shape(4)[1], WHOLE(vector.count)) as (c, _):
            x = builder.load(address(0, i, c, kind=vector), align=ALIGNED)
            value = builder.fadd(x, builder.load(address(2, j, c, kind=vector), align=ALIGNED))
            bent = builder.fmul(value, slopes)
            above = builder.fcmp_ordered(">", value, bent)
            builder.store(builder.select(above, value, bent), address(4, k, c, kind=vector), align=ALIGNED)
        return context.get_dummy_value()

    @intrinsic
    def raise_maximum(
        _context: Any, hidden: Any, edge: Any, panels: Any, panel: Any, out: Any, query: Any, winner: Any
    ) -> Any:
        """out[query, d] = max(out[query, d], sum_c hidden[k, c] matrix[d, c]) over the ``BLOCK`` edges k from edge on.

        d: those of one panel of the matrix; panels[panel] (C, vector) holds its part, transposed. All arrays are
        contiguous. Wherever the maximum rises, winner[query, d] = k; None: not wanted. A NaN among the sums makes the
        maximum NaN.
        """
        whole = types.int64
        return types.void(hidden, whole, panels, whole, out, whole, winner), _raise_maximum

    def _raise_maximum(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, edge, _, panel, _, query, _ = arguments
        vector = _vector(context.get_data_type(signature.args[0].dtype))
        address = _Addresses(context, builder, signature, arguments)
        sums = [cgutils.alloca_once(builder, vector) for _ in range(BLOCK)]
        for total in sums:
            builder.store(ir.Constant(vector, None), total)
        rows = [address(0, builder.add(edge, WHOLE(j)), WHOLE(0)) for j in range(BLOCK)]
        name = f"llvm.fmuladd.v{vector.count}f{8 * VECTOR_BYTES // vector.count}"
        multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        with cgutils.for_range(builder, address.shape(0)[1]) as loop:
            column = builder.load(address(2, panel, loop.index, WHOLE(0), kind=vector), align=ALIGNED)
            for row, total in zip(rows, sums, strict=True):
                value = _spread(builder, builder.load(builder.gep(row, [loop.index])), vector)
                builder.store(builder.call(multiply_add, [value, column, builder.load(total)]), total)
        sums = [builder.load(total) for total in sums]
        place = builder.mul(panel, WHOLE(vector.count))
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
                number = builder.trunc(builder.add(edge, WHOLE(j)), numbers.element)
                who = builder.select(rises, _spread(builder, number, numbers), who)
        nan = ir.Constant(vector, [float("nan")] * vector.count)
        builder.store(builder.select(lost, nan, best), target, align=ALIGNED)
        if tracked:
            builder.store(who, winners, align=ALIGNED)
        return context.get_dummy_value()

    class _Addresses:
        """Called with the number of an argument and indices into it, the address of that element."""

        def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            self.context, self.builder, self.types, self.arguments = context, builder, signature.args, arguments

        def _array(self, n: int) -> Any:
            return self.context.make_array(self.types[n])(self.context, self.builder, self.arguments[n])

        def shape(self, n: int) -> list:
            return cgutils.unpack_tuple(self.builder, self._array(n).shape)

        def __call__(self, n: int, *indices: Any, kind: Any = None) -> Any:
            found = cgutils.get_item_pointer(self.context, self.builder, self.types[n], self._array(n), indices)
            return found if kind is None else self.builder.bitcast(found, kind.as_pointer())

    def _vector(kind: Any) -> Any:
        return ir.VectorType(kind, VECTOR_BYTES // (4 if kind == ir.FloatType() else 8))

    def _spread(builder: Any, value: Any, vector: Any) -> Any:
        """A vector that holds the value everywhere."""
        start = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        nowhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
        return builder.shuffle_vector(start, start, nowhere)
