"""Vector instructions that LLVM does not find by itself in a compiled loop."""

from typing import Any

from lib.ops.compiled import numba

LANES = 8  # numbers of 64 bits that are taken at once

if numba is None:
    pack = None  # the loops that call it refuse to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def pack(_context: Any, keys: Any, limit: Any, values: Any, start: Any, out: Any, place: Any) -> Any:
        """Moves those of ``LANES`` values from start on whose keys are <= limit to out[place:]; returns how many.

        keys float64, values and out of one type of 64 bits, all one-dimensional and contiguous. Whatever out held in
        the ``LANES`` places from ``place`` on is lost. One instruction with AVX-512, a few elsewhere.
        """
        signature = types.int64(keys, types.float64, values, types.int64, out, types.int64)
        return signature, _pack

    def _pack(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys, limit, values, start, out, place = arguments
        kind = context.get_data_type(signature.args[2].dtype)
        vector = ir.VectorType(kind, LANES)

        def address(n: int, array: Any, index: Any, vector: Any) -> Any:
            data = context.make_array(signature.args[n])(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        numbers = ir.VectorType(ir.DoubleType(), LANES)
        limits = ir.Constant(numbers, ir.Undefined)
        for lane in range(LANES):
            limits = builder.insert_element(limits, limit, ir.Constant(ir.IntType(32), lane))
        within = builder.fcmp_ordered("<=", builder.load(address(0, keys, start, numbers), align=8), limits)
        name = f"llvm.experimental.vector.compress.v{LANES}{'f' if kind == ir.DoubleType() else 'i'}64"
        compress = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector, within.type, vector]), name
        )
        taken = builder.load(address(2, values, start, vector), align=8)
        packed = builder.call(compress, [taken, within, ir.Constant(vector, ir.Undefined)])
        builder.store(packed, address(4, out, place, vector), align=8)
        return builder.zext(builder.ctpop(builder.bitcast(within, ir.IntType(LANES))), ir.IntType(64))
