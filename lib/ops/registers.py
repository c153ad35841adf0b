"""Writing the innermost loops as LLVM instructions on whole vectors, where no compiler finds them in a plain loop."""

from typing import Any

from lib.ops.compiled import cpu_features, numba

VECTOR_BYTES = 64  # of the numbers taken at once: a register with AVX-512; elsewhere LLVM takes several
ALIGNED = 4  # bytes: an array may begin anywhere
ROWS = 4  # of a product at once: enough sums to keep the multipliers busy, few enough for the registers

if numba is not None:
    from llvmlite import ir
    from numba.core import cgutils

    AVX512 = "+avx512f" in cpu_features()
    ROWS = 8 if AVX512 else 4
    WHOLE = ir.IntType(64)

    class Addresses:
        """Called with the number of an argument and indices into it: the address of that element, as of this type."""

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
