"""Vector instructions that LLVM does not find by itself in a compiled loop.

They become part of the loops that call them, and numba keeps those by the date of their own file: when this file
changes, touch ``knn.py`` as well.
"""

from typing import Any

from lib.ops.compiled import cpu_features, numba

LANES = 8  # numbers of 64 bits that are taken at once

if numba is None:
    pack = None  # the loops that call it refuse to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    AVX512 = "+avx512f" in cpu_features()

    @intrinsic
    def pack(_context: Any, keys: Any, limit: Any, values: Any, start: Any, out: Any, place: Any) -> Any:
        """Moves those of ``LANES`` values from start on whose keys are <= limit to out[place:]; returns how many.

        keys float64, values and out of one type of 64 bits, all one-dimensional and contiguous. Whatever out held in
        the ``LANES`` places from ``place`` on is lost. One instruction with AVX-512, a loop elsewhere.
        """
        signature = types.int64(keys, types.float64, values, types.int64, out, types.int64)
        return signature, _pack

    def _pack(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys, limit, values, start, out, place = arguments
        kind = context.get_data_type(signature.args[2].dtype)
        numbers, vector, whole = ir.VectorType(ir.DoubleType(), LANES), ir.VectorType(kind, LANES), ir.IntType(64)

        def address(n: int, array: Any, index: Any, kind: Any) -> Any:
            data = context.make_array(signature.args[n])(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())

        limits = ir.Constant(numbers, ir.Undefined)
        for lane in range(LANES):
            limits = builder.insert_element(limits, limit, ir.Constant(ir.IntType(32), lane))
        within = builder.fcmp_ordered("<=", builder.load(address(0, keys, start, numbers), align=8), limits)
        bits = builder.bitcast(within, ir.IntType(LANES))
        if AVX512:
            name = f"llvm.experimental.vector.compress.v{LANES}{'f' if kind == ir.DoubleType() else 'i'}64"
            compress = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector, within.type, vector]), name
            )
            taken = builder.load(address(2, values, start, vector), align=8)
            packed = builder.call(compress, [taken, within, ir.Constant(vector, ir.Undefined)])
            builder.store(packed, address(4, out, place, vector), align=8)
        else:  # LLVM's stand-in for the instruction is slow: one by one, the next takes the place of one that is not
            with builder.if_then(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))):
                for lane in range(LANES):
                    value = builder.load(address(2, values, builder.add(start, ir.Constant(whole, lane)), kind))
                    builder.store(value, address(4, out, place, kind))
                    bit = builder.trunc(builder.lshr(bits, ir.Constant(bits.type, lane)), ir.IntType(1))
                    place = builder.add(place, builder.zext(bit, whole))
        return builder.zext(builder.ctpop(bits), whole)
