"""The innermost loop of a matrix product: a few rows times a panel of columns, kept in vector registers.

As LLVM instructions, because no compiler finds this shape in a plain loop. It becomes part of the loops that call it,
and numba keeps those by the date of their own file: when this file changes, touch its callers as well.
"""

from collections.abc import Callable
from typing import Any

from lib.ops.compiled import numba

VECTOR = 64  # bytes: one register with AVX-512; elsewhere LLVM takes several
ROWS = 8  # of a tile of two vectors: 16 sums in registers, each used again when its last step is done

if numba is None:

    def product_tile(rows: int, vectors: int) -> None:
        """Nothing: the loops that call it refuse to run."""

else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    def product_tile(rows: int, vectors: int) -> Callable[..., None]:
        """A function for compiled loops: a tile of ``rows`` x ``vectors`` registers of a product.

        tile(values, place, pitch, panel, first, inner, out, out_place, out_pitch): with flat arrays and n numbers in
        a register, out[out_place + r out_pitch + c] = sum over i < inner of values[place + r pitch + i] times
        panel[first + i vectors n + c], for r < rows and c < vectors n.
        """

        @intrinsic
        def tile(
            _context: Any, values: Any, place: Any, pitch: Any, panel: Any, first: Any, inner: Any,
            out: Any, out_place: Any, out_pitch: Any,
        ) -> Any:  # fmt: skip
            whole = types.int64
            signature = types.void(values, whole, whole, panel, whole, whole, out, whole, whole)
            return signature, lambda *args: _tile(*args, rows, vectors)

        return tile

    def _tile(context: Any, builder: Any, signature: Any, arguments: Any, rows: int, vectors: int) -> Any:
        values, place, pitch, panel, first, inner, out, out_place, out_pitch = arguments
        number, whole = context.get_data_type(signature.args[0].dtype), ir.IntType(64)
        lanes = VECTOR // (4 if number == ir.FloatType() else 8)
        vector = ir.VectorType(number, lanes)
        none, spread = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        tiles = [(r, v) for r in range(rows) for v in range(vectors)]

        def address(n: int, array: Any, index: Any) -> Any:
            return builder.gep(context.make_array(signature.args[n])(context, builder, array).data, [index])

        def at(start: Any, index: Any, kind: Any = None) -> Any:
            found = builder.gep(start, [index])
            return builder.bitcast(found, kind.as_pointer()) if kind else found

        lines = [address(0, values, builder.add(place, builder.mul(pitch, whole(r)))) for r in range(rows)]
        panel = address(3, panel, first)
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3),
            f"llvm.fma.v{lanes}f{32 if lanes * 4 == VECTOR else 64}",
        )  # fmt: skip

        before, loop, after = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(whole)
        sums = {tile: builder.phi(vector) for tile in tiles}
        places = [builder.add(builder.mul(step, whole(lanes * vectors)), whole(lanes * v)) for v in range(vectors)]
        right = [builder.load(at(panel, place, vector), align=4) for place in places]
        left = []
        for line in lines:
            value = builder.insert_element(none, builder.load(at(line, step)), ir.IntType(32)(0))
            left.append(builder.shuffle_vector(value, none, spread))
        following = builder.add(step, whole(1))
        step.add_incoming(whole(0), before)
        step.add_incoming(following, loop)
        for (r, v), total in sums.items():
            total.add_incoming(ir.Constant(vector, [0.0] * lanes), before)
            sums[r, v] = builder.call(multiply_add, [left[r], right[v], total])
            total.add_incoming(sums[r, v], loop)
        builder.cbranch(builder.icmp_signed("<", following, inner), loop, after)
        builder.position_at_end(after)
        for (r, v), total in sums.items():
            start = builder.add(out_place, builder.mul(out_pitch, whole(r)))
            builder.store(total, at(address(6, out, start), whole(lanes * v), vector), align=4)
        return context.get_dummy_value()
