"""Vector instructions of the flow embedding: a sum and its LeakyReLU, and the maximum of a few edges' products."""

from typing import Any

from lib.ops.compiled import numba
from lib.ops.registers import ROWS

BLOCK = ROWS  # edges at once: so many of one vector are quicker than fewer of two or four

if numba is None:
    add_and_bend = raise_maximum = None  # the loops that call them refuse to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    from lib.ops.registers import ALIGNED, WHOLE, Addresses, add_product, in_every_lane, vector_of, zeros

    @intrinsic
    def add_and_bend(_context: Any, x: Any, i: Any, y: Any, j: Any, out: Any, k: Any, slope: Any) -> Any:
        """out[k] = LeakyReLU(x[i] + y[j]), rows of contiguous arrays and of whole vectors."""
        whole = types.int64
        return types.void(x, whole, y, whole, out, whole, out.dtype), _add_and_bend

    def _add_and_bend(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, i, _, j, _, k, slope = arguments
        vector = vector_of(slope.type)
        address = Addresses(context, builder, signature, arguments)
        slopes = in_every_lane(builder, slope, vector)
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
        vector = vector_of(context.get_data_type(signature.args[0].dtype))
        address = Addresses(context, builder, signature, arguments)
        sums = zeros(builder, vector, BLOCK)
        rows = [address(0, builder.add(edge, WHOLE(j)), WHOLE(0)) for j in range(BLOCK)]
        start = address(2, panel, WHOLE(0), WHOLE(0), kind=vector)
        with cgutils.for_range(builder, address.shape(0)[1]) as loop:
            column = builder.load(builder.gep(start, [loop.index]), align=ALIGNED)
            for row, total in zip(rows, sums, strict=True):
                value = in_every_lane(builder, builder.load(builder.gep(row, [loop.index])), vector)
                add_product(builder, total, value, column)
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
                who = builder.select(rises, in_every_lane(builder, number, numbers), who)
        nan = ir.Constant(vector, [float("nan")] * vector.count)
        builder.store(builder.select(lost, nan, best), target, align=ALIGNED)
        if tracked:
            builder.store(who, winners, align=ALIGNED)
        return context.get_dummy_value()
