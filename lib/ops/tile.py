"""The heart of a matrix product: a few rows times a few columns, whose sums stay in registers."""

from collections.abc import Callable
from typing import Any

from lib.ops.compiled import numba

if numba is None:

    def product_tile(rows: int, panels: int) -> None:
        """Nothing: the loops that call it refuse to run."""

else:
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    from lib.ops.registers import ALIGNED, WHOLE, Addresses, add_product, in_every_lane, vector_of, zeros

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
            whole = types.int64
            signature = types.void(values, whole, packed, whole, out, whole, whole)
            return signature, lambda *args: _tile(*args, rows, panels)

        return tile

    def _tile(context: Any, builder: Any, signature: Any, arguments: Any, rows: int, panels: int) -> Any:
        _, row, _, panel, _, out_row, column = arguments
        vector = vector_of(context.get_data_type(signature.args[0].dtype))
        address = Addresses(context, builder, signature, arguments)
        sums = [zeros(builder, vector, panels) for _ in range(rows)]
        lines = [address(0, builder.add(row, WHOLE(r)), WHOLE(0)) for r in range(rows)]
        starts = [address(2, builder.add(panel, WHOLE(p)), WHOLE(0), WHOLE(0), kind=vector) for p in range(panels)]
        with cgutils.for_range(builder, address.shape(0)[1]) as loop:
            columns = [builder.load(builder.gep(start, [loop.index]), align=ALIGNED) for start in starts]
            for line, totals in zip(lines, sums, strict=True):
                value = in_every_lane(builder, builder.load(builder.gep(line, [loop.index])), vector)
                for total, factor in zip(totals, columns, strict=True):
                    add_product(builder, total, value, factor)
        for r, totals in enumerate(sums):
            for p, total in enumerate(totals):
                place = builder.add(out_row, WHOLE(r)), builder.add(column, WHOLE(p * vector.count))
                builder.store(builder.load(total), address(4, *place, kind=vector), align=ALIGNED)
        return context.get_dummy_value()
