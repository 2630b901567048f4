"""One instruction at a time: what the executor computes against numpy, ml_dtypes and exact fractions.

    vectors.py LIBRARY

Expected values never come from the executor. Layouts of matrix fragments are written down here from the
tables of the PTX ISA, those of shared-memory descriptors from the canonical layouts of CUTLASS.
"""

import sys
from fractions import Fraction

import ml_dtypes
import numpy as np

from executor import Checks, Executor, HEADER

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
rng = np.random.default_rng(11)
executor = Executor(sys.argv[1])
checks = Checks()


def f32_bits(values):
    return np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)


def as_f32(bits):
    return np.asarray(bits).astype(np.uint32).view(np.float32)


def signed(value, bits):
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def words(bits=32, count=32):
    """Random words with the edges first."""
    edges = [0, 1, 2, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << (bits - 1)) + 1, 0x55555555 & ((1 << bits) - 1)]
    return [edges[i] if i < len(edges) else int(rng.integers(0, 1 << bits, dtype=np.uint64)) for i in range(count)]


def shuffled(values):
    return [values[i] for i in rng.permutation(len(values))]


def check_words(name, instruction, bits, arrays, expected, result_bits=None):
    """Compares with expected(*operands), a Python function of one lane's integers."""
    out = executor.lanes(instruction, [(b, a) for b, a in zip(bits, arrays)], [result_bits or bits[0]])
    mask = (1 << (result_bits or bits[0])) - 1
    want = [expected(*lane) & mask for lane in zip(*arrays)]
    checks.equal(name, out[0], np.array(want, np.uint64))


# ---- exact rounding ------------------------------------------------------------------------------------

FORMATS = {"f16": (5, 10), "bf16": (8, 7), "tf32": (8, 10), "f32": (8, 23), "e4m3": (4, 3), "e5m2": (5, 2)}


def rounded(value, name, mode="rn", negative_zero=False):
    """The bits of an exact number in a format; overflow to infinity (e4m3: to its largest number)."""
    exponent_bits, mantissa_bits = FORMATS[name]
    bias = (1 << (exponent_bits - 1)) - 1
    sign = 1 if value < 0 or (value == 0 and negative_zero) else 0
    magnitude = abs(Fraction(value))
    if magnitude == 0:
        return sign << (exponent_bits + mantissa_bits)
    exponent = 0
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while magnitude < Fraction(2) ** exponent:
        exponent -= 1
    exponent = max(exponent, 1 - bias)
    units = magnitude / Fraction(2) ** (exponent - mantissa_bits)
    whole, rest = units.numerator // units.denominator, units - units.numerator // units.denominator
    half = Fraction(1, 2)
    up = {"rn": rest > half or (rest == half and whole % 2 == 1), "rna": rest >= half, "rz": False,
          "rp": rest > 0 and not sign, "rm": rest > 0 and bool(sign)}[mode]
    whole += up
    if whole >= 1 << (mantissa_bits + 1):
        whole, exponent = whole // 2, exponent + 1
    code = whole if whole < 1 << mantissa_bits else ((exponent + bias) << mantissa_bits) + whole - (1 << mantissa_bits)
    infinity = ((1 << exponent_bits) - 1) << mantissa_bits
    largest = 0x7E if name == "e4m3" else infinity - 1
    if code > largest:
        away = mode in ("rn", "rna") or (mode == "rp" and not sign) or (mode == "rm" and sign)
        code = infinity if away and name not in ("e4m3", "e5m2") else largest
    return sign << (exponent_bits + mantissa_bits) | code


def floats(count=32):
    edges = [0.0, -0.0, 1.0, -1.0, 2**-149, 2**-126, 1.0000001, 3.4e38, 65504.0, 65520.0, 448.0, 464.0, 2**-9, 2**-10, 6e-8, -449.0]
    random = rng.standard_normal(count) * np.exp2(rng.integers(-20, 20, count))
    return np.array([edges[i] if i < len(edges) else random[i] for i in range(count)], np.float32)


# ---- integers ------------------------------------------------------------------------------------------

def integers():
    for bits, unsigned, sign in ((32, "u32", "s32"), (64, "u64", "s64"), (16, "u16", "s16")):
        a, b = words(bits), shuffled(words(bits))
        two = lambda text, expected, name=None: check_words(text, f"{text} %d0, %a0, %a1;", (bits, bits), (a, b), expected)
        s = lambda v: signed(v, bits)
        two(f"add.{sign}", lambda x, y: x + y)
        two(f"sub.{sign}", lambda x, y: x - y)
        two(f"mul.lo.{sign}", lambda x, y: x * y)
        two(f"mul.hi.{unsigned}", lambda x, y: x * y >> bits)
        two(f"mul.hi.{sign}", lambda x, y: s(x) * s(y) >> bits)
        two(f"min.{sign}", lambda x, y: min(s(x), s(y)))
        two(f"max.{unsigned}", max)
        nonzero = [v or 3 for v in b]
        truncated = lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        check_words(f"div.{unsigned}", f"div.{unsigned} %d0, %a0, %a1;", (bits, bits), (a, nonzero), lambda x, y: x // y)
        check_words(f"div.{sign}", f"div.{sign} %d0, %a0, %a1;", (bits, bits), (a, nonzero), lambda x, y: truncated(s(x), s(y)))
        check_words(f"rem.{sign}", f"rem.{sign} %d0, %a0, %a1;", (bits, bits), (a, nonzero),
                    lambda x, y: s(x) - truncated(s(x), s(y)) * s(y))
        check_words(f"neg.{sign}", f"neg.{sign} %d0, %a0;", (bits,), (a,), lambda x: -s(x))
        check_words(f"abs.{sign}", f"abs.{sign} %d0, %a0;", (bits,), (a,), lambda x: abs(s(x)))
        check_words(f"not.b{bits}", f"not.b{bits} %d0, %a0;", (bits,), (a,), lambda x: ~x)
        two(f"and.b{bits}", lambda x, y: x & y)
        two(f"xor.b{bits}", lambda x, y: x ^ y)
        shifts = [int(v) for v in rng.integers(0, bits + 10, 32)]
        check_words(f"shl.b{bits}", f"shl.b{bits} %d0, %a0, %a1;", (bits, 32), (a, shifts), lambda x, n: x << n if n < bits else 0, bits)
        check_words(f"shr.{unsigned}", f"shr.{unsigned} %d0, %a0, %a1;", (bits, 32), (a, shifts), lambda x, n: x >> n, bits)
        check_words(f"shr.{sign}", f"shr.{sign} %d0, %a0, %a1;", (bits, 32), (a, shifts), lambda x, n: s(x) >> min(n, bits - 1), bits)
    a, b, c = words(), shuffled(words()), shuffled(words())
    check_words("mad.lo.s32", "mad.lo.s32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, c), lambda x, y, z: x * y + z)
    check_words("mad.hi.u32", "mad.hi.u32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, c), lambda x, y, z: (x * y >> 32) + z)
    check_words("mul.wide.s32", "mul.wide.s32 %d0, %a0, %a1;", (32, 32), (a, b), lambda x, y: signed(x, 32) * signed(y, 32), 64)
    check_words("mul.wide.u32", "mul.wide.u32 %d0, %a0, %a1;", (32, 32), (a, b), lambda x, y: x * y, 64)
    long = words(64)
    check_words("mad.wide.u32", "mad.wide.u32 %d0, %a0, %a1, %a2;", (32, 32, 64), (a, b, long), lambda x, y, z: x * y + z, 64)
    check_words("sad.s32", "sad.s32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, c), lambda x, y, z: abs(signed(x, 32) - signed(y, 32)) + z)
    out = executor.lanes("add.cc.u64 %d0, %a0, %a2; addc.u64 %d1, %a1, %a3;",
                         [(64, long), (64, words(64)), (64, (v := shuffled(long))), (64, words(64))], [64, 64])
    sums = [x + y for x, y in zip(long, v)]
    checks.equal("add.cc.u64", out[0], np.array([x & M64 for x in sums], np.uint64))
    zero = executor.lanes("add.cc.u64 %d0, %a0, %a1; addc.u64 %d1, 0, 0;", [(64, long), (64, v)], [64, 64])
    checks.equal("addc.u64", zero[1], np.array([x >> 64 for x in sums], np.uint64))
    borrow = executor.lanes("sub.cc.u32 %d0, %a0, %a1; subc.u32 %d1, 0, 0;", [(32, a), (32, b)], [32, 32])
    checks.equal("subc.u32", borrow[1], np.array([M32 if x < y else 0 for x, y in zip(a, b)], np.uint64))
    clamp = lambda v: max(-(1 << 31), min((1 << 31) - 1, v))
    check_words("add.sat.s32", "add.sat.s32 %d0, %a0, %a1;", (32, 32), (a, b), lambda x, y: clamp(signed(x, 32) + signed(y, 32)))
    byte = lambda v, n, s: signed(v >> 8 * n & 255, 8) if s else v >> 8 * n & 255
    check_words("dp4a.s32.u32", "dp4a.s32.u32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, c),
                lambda x, y, z: z + sum(byte(x, n, True) * byte(y, n, False) for n in range(4)))


# ---- bits ----------------------------------------------------------------------------------------------

def prmt(a, b, selector):
    both = [(a >> 8 * n & 255) for n in range(4)] + [(b >> 8 * n & 255) for n in range(4)]
    result = 0
    for n in range(4):
        nibble = selector >> 4 * n & 15
        value = both[nibble & 7]
        result |= (0xFF if value & 0x80 else 0 if nibble & 8 else value) << 8 * n if nibble & 8 else value << 8 * n
    return result


def bits():
    a, b, c = words(), shuffled(words()), shuffled(words())
    for name, bits, array in (("b32", 32, a), ("b64", 64, words(64))):
        check_words(f"popc.{name}", f"popc.{name} %d0, %a0;", (bits,), (array,), lambda x: bin(x).count("1"), 32)
        check_words(f"clz.{name}", f"clz.{name} %d0, %a0;", (bits,), (array,), lambda x: bits - x.bit_length(), 32)
        check_words(f"brev.{name}", f"brev.{name} %d0, %a0;", (bits,), (array,), lambda x: int(f"{x:0{bits}b}"[::-1], 2))
    check_words("bfind.u32", "bfind.u32 %d0, %a0;", (32,), (a,), lambda x: x.bit_length() - 1)
    check_words("bfind.shiftamt.s32", "bfind.shiftamt.s32 %d0, %a0;", (32,), (a,),
                lambda x: M32 if (y := x ^ M32 if x >> 31 else x) == 0 else 32 - y.bit_length())
    positions, lengths = [int(v) for v in rng.integers(0, 40, 32)], [int(v) for v in rng.integers(0, 40, 32)]
    field = lambda x, p, n: (x >> p) & ((1 << n) - 1)
    check_words("bfe.u32", "bfe.u32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, positions, lengths), field)

    def field_signed(x, p, n):
        if n == 0:
            return 0
        sign = x >> min(p + n - 1, 31) & 1
        return sum(((x >> (p + i) & 1) if i < n and p + i <= 31 else sign) << i for i in range(32))

    check_words("bfe.s32", "bfe.s32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, positions, lengths), field_signed)

    def insert(x, y, p, n):
        for i in range(n):
            if p + i < 32:
                y = y & ~(1 << (p + i)) | (x >> i & 1) << (p + i)
        return y

    check_words("bfi.b32", "bfi.b32 %d0, %a0, %a1, %a2, %a3;", (32, 32, 32, 32), (a, b, positions, lengths), insert)
    check_words("prmt.b32", "prmt.b32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, [v & 0xFFFF for v in c]), prmt)
    modes = {"f4e": [0x3210, 0x4321, 0x5432, 0x6543], "b4e": [0x5670, 0x6701, 0x7012, 0x0123],
             "rc8": [0, 0x1111, 0x2222, 0x3333], "ecl": [0x3210, 0x3211, 0x3222, 0x3333],
             "ecr": [0, 0x1110, 0x2210, 0x3210], "rc16": [0x1010, 0x3232, 0x1010, 0x3232]}
    for mode, selectors in modes.items():
        check_words(f"prmt.b32.{mode}", f"prmt.b32.{mode} %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, c),
                    lambda x, y, z: prmt(x, y, selectors[z & 3]))
    for table in (0x96, 0xE8, 0x1B, 0xF8):
        check_words(f"lop3 {table:#x}", f"lop3.b32 %d0, %a0, %a1, %a2, {table:#x};", (32, 32, 32), (a, b, c),
                    lambda x, y, z: sum((table >> ((x >> n & 1) * 4 + (y >> n & 1) * 2 + (z >> n & 1)) & 1) << n for n in range(32)))
    for way in ("l", "r"):
        for clamp in ("clamp", "wrap"):
            def funnel(x, y, n):
                n = n % 32 if clamp == "wrap" else min(n, 32)
                both = y << 32 | x
                return (both << n) >> 32 if way == "l" else both >> n
            check_words(f"shf.{way}.{clamp}.b32", f"shf.{way}.{clamp}.b32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, b, positions), funnel)
    check_words("mov.b64 pack", "mov.b64 %d0, {%a0, %a1};", (32, 32), (a, b), lambda x, y: y << 32 | x, 64)
    known = [0x1122334455667788] * 32
    out = executor.lanes("mov.b64 {%d0, %d1}, %a0;", [(64, known)], [32, 32])
    checks.equal("mov.b64 unpack", out, np.array([[0x55667788] * 32, [0x11223344] * 32], np.uint64))


# ---- floats --------------------------------------------------------------------------------------------

def arithmetic_of_floats():
    a, b, c = floats(), np.roll(floats(), 5), np.roll(floats(), 11)
    exact = lambda v: Fraction(float(v))
    finite = lambda values: np.where(np.abs(values) > 1e18, np.float32(1.5), values)
    a, b, c = finite(a), finite(b), finite(c)
    for mode in ("rn", "rz", "rm", "rp"):
        for name, operation in (("add", lambda x, y: x + y), ("mul", lambda x, y: x * y), ("sub", lambda x, y: x - y)):
            out = executor.lanes(f"{name}.{mode}.f32 %d0, %a0, %a1;", [(32, f32_bits(a)), (32, f32_bits(b))], [32])
            want = []
            for x, y in zip(a, b):
                value = operation(exact(x), exact(y))
                if value == 0:  # zeros' signs: as numpy has them, but for rm
                    zero = {"add": x + y, "mul": x * y, "sub": x - y}[name]
                    negative = bool(np.signbit(zero)) or (mode == "rm" and name != "mul" and (x != 0 or np.signbit(x) != np.signbit(y if name == "add" else -y)))
                    want.append(rounded(0, "f32", mode, negative))
                else:
                    want.append(rounded(value, "f32", mode))
            checks.equal(f"{name}.{mode}.f32", out[0], np.array(want, np.uint64))
        out = executor.lanes(f"fma.{mode}.f32 %d0, %a0, %a1, %a2;", [(32, f32_bits(v)) for v in (a, b, c)], [32])
        values = [exact(x) * exact(y) + exact(z) for x, y, z in zip(a, b, c)]
        keep = [n for n, v in enumerate(values) if v != 0]
        checks.equal(f"fma.{mode}.f32", out[0][keep], np.array([rounded(values[n], "f32", mode) for n in keep], np.uint64))
        positive = np.abs(b) + np.float32(1e-3)
        out = executor.lanes(f"div.{mode}.f32 %d0, %a0, %a1;", [(32, f32_bits(a)), (32, f32_bits(positive))], [32])
        keep = [n for n in range(32) if a[n] != 0]
        checks.equal(f"div.{mode}.f32", out[0][keep],
                     np.array([rounded(exact(a[n]) / exact(positive[n]), "f32", mode) for n in keep], np.uint64))
    # Approximations: the ISA allows 2^-22 relative; the executor promises 2^-23.
    x = np.abs(rng.standard_normal(32)).astype(np.float32) * 8 + np.float32(0.01)
    for name, function in (("rcp.approx.ftz.f32", lambda v: 1 / v), ("rsqrt.approx.f32", lambda v: v**-0.5),
                           ("sqrt.approx.f32", np.sqrt), ("ex2.approx.ftz.f32", np.exp2), ("lg2.approx.f32", np.log2),
                           ("sin.approx.f32", np.sin), ("cos.approx.f32", np.cos), ("tanh.approx.f32", np.tanh)):
        out = as_f32(executor.lanes(f"{name} %d0, %a0;", [(32, f32_bits(x))], [32])[0])
        want = function(x.astype(np.float64))
        checks.close(name, out / want, 1, 2**-23)
    tiny = np.array([2**-130, -(2**-140), 2**-126, 1], np.float32)
    out = executor.lanes("add.ftz.f32 %d0, %a0, 0f00000000;", [(32, f32_bits(tiny))], [32])
    checks.equal("add.ftz.f32", out[0][:4], f32_bits([0, 0, 2**-126, 1]))
    out = executor.lanes("add.sat.f32 %d0, %a0, %a1;", [(32, f32_bits([0.5, 2, -1, np.nan])), (32, f32_bits([0.25] * 4))], [32])
    checks.equal("add.sat.f32", out[0][:4], f32_bits([0.75, 1, 0, 0]))
    nan = np.array([np.nan, 1, -0.0, 0.0], np.float32)
    other = np.array([2, np.nan, 0.0, -0.0], np.float32)
    pair = [(32, f32_bits(nan)), (32, f32_bits(other))]
    checks.equal("min.f32", executor.lanes("min.f32 %d0, %a0, %a1;", pair, [32])[0][:4], f32_bits([2, 1, -0.0, -0.0]))
    checks.equal("max.f32", executor.lanes("max.f32 %d0, %a0, %a1;", pair, [32])[0][:4], f32_bits([2, 1, 0.0, 0.0]))
    checks.equal("max.NaN.f32", executor.lanes("max.NaN.f32 %d0, %a0, %a1;", pair, [32])[0][:2], np.array([0x7FFFFFFF] * 2, np.uint64))
    d = rng.standard_normal(32)
    e = rng.standard_normal(32)
    out = executor.lanes("fma.rn.f64 %d0, %a0, %a1, %a1;", [(64, d.view(np.uint64)), (64, e.view(np.uint64))], [64])
    want = np.array([float(Fraction(x) * Fraction(y) + Fraction(y)) for x, y in zip(d, e)])
    checks.equal("fma.rn.f64", out[0], want.view(np.uint64))


def comparisons():
    values = np.array([1, 2, 2, np.nan, 3, np.nan, -0.0, 5], np.float32)
    others = np.array([2, 1, 2, 1, np.nan, np.nan, 0.0, 5], np.float32)
    unordered = np.isnan(values) | np.isnan(others)
    for name, plain in (("eq", np.equal), ("ne", np.not_equal), ("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal)):
        for suffix in ("", "u"):
            want = np.where(unordered, suffix == "u", plain(values, others))
            out = executor.lanes(f"setp.{name}{suffix}.f32 %p0|%p1, %a0, %a1; selp.b32 %d0, 1, 0, %p0; selp.b32 %d1, 1, 0, %p1;",
                                 [(32, f32_bits(values)), (32, f32_bits(others))], [32, 32])
            checks.equal(f"setp.{name}{suffix}.f32", out[0][:8], want.astype(np.uint64))
            checks.equal(f"setp.{name}{suffix}.f32 |q", out[1][:8], (~want).astype(np.uint64))
    for name, want in (("num", ~unordered), ("nan", unordered)):
        out = executor.lanes(f"setp.{name}.f32 %p0, %a0, %a1; selp.b32 %d0, 1, 0, %p0;", [(32, f32_bits(values)), (32, f32_bits(others))], [32])
        checks.equal(f"setp.{name}.f32", out[0][:8], want.astype(np.uint64))
    a, b = words(), shuffled(words())
    s = lambda v: signed(v, 32)
    for name, holds in (("lt.s32", lambda x, y: s(x) < s(y)), ("lo.u32", lambda x, y: x < y), ("hs.u32", lambda x, y: x >= y), ("ge.s32", lambda x, y: s(x) >= s(y))):
        check_words(f"setp.{name}", f"setp.{name} %p0, %a0, %a1; selp.b32 %d0, 1, 0, %p0;", (32, 32), (a, b), holds)
    check_words("setp.and", "setp.lt.u32 %p1, %a0, 100; setp.eq.and.u32 %p0, %a1, %a1, !%p1; selp.b32 %d0, 1, 0, %p0;", (32, 32), (a, b), lambda x, y: x >= 100)
    check_words("and.pred", "setp.lt.s32 %p1, %a0, 0; setp.lt.s32 %p2, %a1, 0; xor.pred %p3, %p1, %p2; not.pred %p3, %p3; selp.b32 %d0, 1, 0, %p3;",
                (32, 32), (a, b), lambda x, y: (s(x) < 0) == (s(y) < 0))
    check_words("set.lt.u32.s32", "set.lt.u32.s32 %d0, %a0, %a1;", (32, 32), (a, b), lambda x, y: M32 if s(x) < s(y) else 0)
    check_words("slct.b32.s32", "slct.b32.s32 %d0, %a0, %a1, %a0;", (32, 32), (a, b), lambda x, y: x if s(x) >= 0 else y)
    check_words("guard", "mov.b32 %d0, 7; setp.lt.s32 %p0, %a0, 0; @%p0 mov.b32 %d0, 9; @!%p0 add.s32 %d0, %d0, 1;", (32,), (a,), lambda x: 9 if s(x) < 0 else 8)


# ---- conversions ---------------------------------------------------------------------------------------

def conversions():
    values = floats()
    exact = [Fraction(float(v)) for v in values]
    negative = [bool(np.signbit(v)) for v in values]
    source = [(32, f32_bits(values))]
    for name, bits in (("f16", 16), ("bf16", 16)):
        for mode in ("rn", "rz"):
            out = executor.lanes(f"cvt.{mode}.{name}.f32 %d0, %a0;", source, [bits])
            checks.equal(f"cvt.{mode}.{name}.f32", out[0], np.array([rounded(v, name, mode, n) for v, n in zip(exact, negative)], np.uint64))
    # The oracle of these tests against another one.
    for name, dtype, view in (("f16", np.float16, np.uint16), ("bf16", ml_dtypes.bfloat16, np.uint16)):
        want = values.astype(dtype).view(view).astype(np.uint64)
        checks.equal(f"oracle {name}", np.array([rounded(v, name, "rn", n) for v, n in zip(exact, negative)], np.uint64), want)
    out = executor.lanes("cvt.rna.tf32.f32 %d0, %a0;", source, [32])
    checks.equal("cvt.rna.tf32.f32", out[0], np.array([rounded(v, "tf32", "rna", n) << 13 for v, n in zip(exact, negative)], np.uint64))
    pairs = source + [(32, f32_bits(np.roll(values, 7)))]
    rolled = list(zip(np.roll(np.array(exact, object), 7), np.roll(negative, 7)))
    for name, kind, width in (("bf16x2", "bf16", 16), ("f16x2", "f16", 16), ("e4m3x2", "e4m3", 8), ("e5m2x2", "e5m2", 8)):
        modifier = ".satfinite" if width == 8 else ""
        out = executor.lanes(f"cvt.rn{modifier}.{name}.f32 %d0, %a0, %a1;", pairs, [2 * width])
        want = [rounded(v, kind, "rn", n) << width | rounded(w, kind, "rn", m) for v, n, (w, m) in zip(exact, negative, rolled)]
        checks.equal(f"cvt.rn.{name}.f32", out[0], np.array(want, np.uint64))
    for name, dtype in (("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)):
        limited = np.clip(values, -400, 400).astype(np.float32)
        want = limited.astype(dtype).view(np.uint8).astype(np.uint64)
        out = executor.lanes(f"cvt.rn.satfinite.{name}x2.f32 %d0, %a0, %a1;", [(32, f32_bits(limited)), (32, f32_bits(np.zeros(32)))], [16])
        checks.equal(f"cvt.rn.{name}x2.f32 by ml_dtypes", out[0] >> np.uint64(8), want)
        # Every code there is.
        for start in range(0, 256, 64):
            codes = np.arange(start, start + 64, dtype=np.uint8)
            out = executor.lanes(f"cvt.rn.f16x2.{name}x2 %d0, %a0;", [(16, codes[::2].astype(np.uint64) | codes[1::2].astype(np.uint64) << np.uint64(8))], [32])
            got = np.stack([out[0] & np.uint64(0xFFFF), out[0] >> np.uint64(16)], 1).reshape(-1).astype(np.uint16).view(np.float16).astype(np.float64)
            decoded = codes.view(dtype).astype(np.float64)
            same = (got == decoded) | (np.isnan(got) & np.isnan(decoded))
            checks.equal(f"cvt.rn.f16x2.{name}x2 {start}", same.astype(np.uint64), np.ones(64, np.uint64))
    halves = np.arange(0, 1 << 16, 977, dtype=np.uint16)[:32]
    for name, dtype in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        out = as_f32(executor.lanes(f"cvt.f32.{name} %d0, %a0;", [(16, halves.astype(np.uint64))], [32])[0])
        decoded = halves.view(dtype).astype(np.float32)
        same = (out == decoded) | (np.isnan(out) & np.isnan(decoded))
        checks.equal(f"cvt.f32.{name}", same.astype(np.uint64), np.ones(32, np.uint64))
    # To integers: rounding, saturation, NaN.
    given = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e10, -1e10, np.nan, 2147483520, -3.7, 3.7, 255.5, -0.0, 1e-30, np.inf, -np.inf], np.float32)
    source = [(32, f32_bits(given))]
    functions = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    for mode, function in functions.items():
        for kind, low, high in (("s32", -(2**31), 2**31 - 1), ("u32", 0, 2**32 - 1), ("u8", 0, 255), ("s8", -128, 127)):
            out = executor.lanes(f"cvt.{mode}.{kind}.f32 %d0, %a0;", source, [32])
            want = [0 if np.isnan(v) else int(min(max(function(np.float64(v)), low), high)) & M32 for v in given]
            checks.equal(f"cvt.{mode}.{kind}.f32", out[0][: len(given)], np.array(want, np.uint64))
    a, long = words(), words(64)
    for mode in ("rn", "rz", "rm", "rp"):
        check_words(f"cvt.{mode}.f32.s32", f"cvt.{mode}.f32.s32 %d0, %a0;", (32,), (a,), lambda x: rounded(signed(x, 32), "f32", mode))
        check_words(f"cvt.{mode}.f32.u64", f"cvt.{mode}.f32.u64 %d0, %a0;", (64,), (long,), lambda x: rounded(x, "f32", mode), 32)
    check_words("cvt.s64.s32", "cvt.s64.s32 %d0, %a0;", (32,), (a,), lambda x: signed(x, 32), 64)
    check_words("cvt.u64.u32", "cvt.u64.u32 %d0, %a0;", (32,), (a,), lambda x: x, 64)
    check_words("cvt.s32.s8", "cvt.s32.s8 %d0, %a0;", (32,), (a,), lambda x: signed(x & 255, 8))
    check_words("cvt.u16.u32", "cvt.u16.u32 %d0, %a0;", (32,), (a,), lambda x: x & 0xFFFF, 16)
    check_words("cvt.sat.u8.s32", "cvt.sat.u8.s32 %d0, %a0;", (32,), (a,), lambda x: min(max(signed(x, 32), 0), 255))
    check_words("cvt.sat.s8.s32", "cvt.sat.s8.s32 %d0, %a0;", (32,), (a,), lambda x: min(max(signed(x, 32), -128), 127))
    check_words("cvt.pack.sat.s8.s32.b32", "cvt.pack.sat.s8.s32.b32 %d0, %a0, %a1, %a2;", (32, 32, 32), (a, shuffled(a), shuffled(a)),
                lambda x, y, z: (z & 0xFFFF) << 16 | (min(max(signed(x, 32), -128), 127) & 255) << 8 | min(max(signed(y, 32), -128), 127) & 255)


def halves():
    for name, dtype in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        numbers = lambda: (rng.standard_normal(64) * np.exp2(rng.integers(-6, 6, 64))).astype(dtype)
        a, b, c = numbers(), numbers(), numbers()
        pack = lambda v: v.view(np.uint16)[::2].astype(np.uint64) | v.view(np.uint16)[1::2].astype(np.uint64) << np.uint64(16)
        exact = lambda v: [Fraction(float(x)) for x in v]
        for operation, function in (("add", lambda x, y, z: x + y), ("mul", lambda x, y, z: x * y), ("sub", lambda x, y, z: x - y), ("fma", lambda x, y, z: x * y + z)):
            three = operation == "fma"
            text = f"{operation}.rn.{name}x2 %d0, %a0, %a1{', %a2' if three else ''};"
            out = executor.lanes(text, [(32, pack(a)), (32, pack(b)), (32, pack(c))], [32])
            bits = [rounded(function(x, y, z), name) for x, y, z in zip(exact(a), exact(b), exact(c))]
            want = np.array([low | high << 16 for low, high in zip(bits[::2], bits[1::2])], np.uint64)
            checks.equal(f"{operation}.rn.{name}x2", out[0], want)
        out = executor.lanes(f"max.{name}x2 %d0, %a0, %a1;", [(32, pack(a)), (32, pack(b))], [32])
        checks.equal(f"max.{name}x2", out[0], pack(np.maximum(a, b)))
        out = executor.lanes(f"neg.{name}x2 %d0, %a0; abs.{name}x2 %d1, %a0;", [(32, pack(a))], [32, 32])
        checks.equal(f"neg, abs.{name}x2", out, np.stack([pack(-a), pack(np.abs(a))]))
        out = executor.lanes(f"fma.rn.relu.{name}x2 %d0, %a0, %a1, %a2;", [(32, pack(a)), (32, pack(b)), (32, pack(c))], [32])
        clipped = [max(x * y + z, Fraction(0)) for x, y, z in zip(exact(a), exact(b), exact(c))]
        bits = [rounded(v, name) for v in clipped]
        checks.equal(f"fma.rn.relu.{name}x2", out[0], np.array([low | high << 16 for low, high in zip(bits[::2], bits[1::2])], np.uint64))


# ---- the warp ------------------------------------------------------------------------------------------

def warp():
    lane = np.arange(32)
    values = np.array(words(), np.uint64)
    for mode, source in (("bfly", lambda l, n: l ^ n), ("up", lambda l, n: l - n), ("down", lambda l, n: l + n)):
        for by in (1, 5, 16, 31):
            clamp = 0 if mode == "up" else 31
            out = executor.lanes(f"shfl.sync.{mode}.b32 %d0|%p0, %a0, {by}, {clamp}, 0xffffffff; selp.b32 %d1, 1, 0, %p0;", [(32, values)], [32, 32])
            come = np.array([source(l, by) for l in lane])
            good = (come >= 0) & (come < 32)
            checks.equal(f"shfl.{mode} {by}", out[0], values[np.where(good, come, lane)])
            checks.equal(f"shfl.{mode} {by} |p", out[1], good.astype(np.uint64))
    # Segments of 8: the mask in bits 8 … 12 keeps the upper bits of the lane.
    out = executor.lanes("shfl.sync.idx.b32 %d0, %a0, %a1, 0x181f, 0xffffffff;", [(32, values), (32, lane * 3 % 8)], [32])
    checks.equal("shfl.idx in segments", out[0], values[(lane & 0x18) | (lane * 3 % 8)])
    odd = int(sum(1 << l for l in lane if l % 2))
    text = "and.b32 %t0, %thread, 1; setp.eq.u32 %p0, %t0, 1;"
    out = executor.lanes(text + "vote.sync.ballot.b32 %d0, %p0, 0xffffffff;", [], [32])
    checks.equal("vote.ballot", out[0], np.full(32, odd, np.uint64))
    out = executor.lanes(text + "vote.sync.any.pred %p1, %p0, 0xffffffff; vote.sync.all.pred %p2, !%p0, 0xffffffff; selp.b32 %d0, 1, 0, %p1; selp.b32 %d1, 1, 0, %p2;", [], [32, 32])
    checks.equal("vote.any, all", out, np.array([[1] * 32, [0] * 32], np.uint64))
    groups = lane // 3 % 4
    out = executor.lanes("match.any.sync.b32 %d0, %a0, 0xffffffff;", [(32, groups)], [32])
    checks.equal("match.any", out[0], np.array([sum(1 << int(m) for m in lane if groups[m] == groups[l]) for l in lane], np.uint64))
    for mode, function in (("add", lambda v: sum(v)), ("min", min), ("max", max), ("and", lambda v: int(np.bitwise_and.reduce(v))), ("or", lambda v: int(np.bitwise_or.reduce(v))), ("xor", lambda v: int(np.bitwise_xor.reduce(v)))):
        kind = "u32" if mode in ("add", "min", "max") else "b32"
        out = executor.lanes(f"redux.sync.{mode}.{kind} %d0, %a0, 0xffffffff;", [(32, values)], [32])
        checks.equal(f"redux.{mode}", out[0], np.full(32, function([int(v) for v in values]) & M32, np.uint64))
    out = executor.lanes("redux.sync.min.s32 %d0, %a0, 0xffffffff;", [(32, values)], [32])
    checks.equal("redux.min.s32", out[0], np.full(32, min(signed(int(v), 32) for v in values) & M32, np.uint64))
    # A branch that the lanes with odd numbers take, and a loop that lane l runs l times.
    text = """
      and.b32 %t0, %thread, 1; setp.eq.u32 %p0, %t0, 1;
      mov.b32 %d0, 0; mov.b32 %d1, 0;
      @%p0 bra ODD;
      activemask.b32 %d1;
      bra BOTH;
    ODD:
      activemask.b32 %d1;
    BOTH:
      mov.b32 %t1, 0;
    LOOP:
      setp.ge.u32 %p1, %t1, %thread;
      @%p1 bra END;
      add.u32 %d0, %d0, %t1; add.u32 %t1, %t1, 1;
      bra LOOP;
    END:
      bar.warp.sync 0xffffffff;"""
    out = executor.lanes(text, [], [32, 32])
    checks.equal("branches", out[1], np.where(lane % 2 == 1, odd, M32 ^ odd).astype(np.uint64))
    checks.equal("loops", out[0], (lane * (lane - 1) // 2).astype(np.uint64))
    out = executor.lanes("elect.sync %d0|%p0, 0xffffffff; selp.b32 %d1, 1, 0, %p0;", [], [32, 32])
    checks.equal("elect: one lane", np.array([out[1].sum(), out[1][int(out[0][0])]]), np.array([1, 1], np.uint64))


# ---- memory --------------------------------------------------------------------------------------------

def memory():
    before = ".shared .align 16 .b8 tile[4096];\n"
    rows = rng.integers(0, 1 << 16, (32, 8), dtype=np.uint16)  # four matrices of 8 rows of 8
    packed = rows.view(np.uint64)
    fill = "mov.b32 %t0, tile; shl.b32 %t1, %thread, 4; add.u32 %t0, %t0, %t1; st.shared.v2.b64 [%t0], {%a0, %a1}; bar.warp.sync 0xffffffff;"
    inputs = [(64, packed[:, 0]), (64, packed[:, 1])]
    for transposed in (False, True):
        name = "ldmatrix.sync.aligned.m8n8.x4" + (".trans" if transposed else "") + ".shared.b16"
        out = executor.lanes(fill + f"{name} {{%d0, %d1, %d2, %d3}}, [%t0];", inputs, [32] * 4, before)
        for matrix in range(4):
            m = rows[8 * matrix : 8 * matrix + 8]
            m = m.T if transposed else m
            want = [int(m[l // 4, 2 * (l % 4)]) | int(m[l // 4, 2 * (l % 4) + 1]) << 16 for l in range(32)]
            checks.equal(f"{name} {matrix}", out[matrix], np.array(want, np.uint64))
    fragments = [rng.integers(0, 1 << 32, 32, dtype=np.uint64) for _ in range(2)]
    text = """mov.b32 %t0, tile; and.b32 %t2, %thread, 15; shl.b32 %t1, %t2, 4; add.u32 %t0, %t0, %t1;
      stmatrix.sync.aligned.m8n8.x2.shared.b16 [%t0], {%a0, %a1};
      bar.warp.sync 0xffffffff; ld.shared.v2.b64 {%d0, %d1}, [%t0];"""
    out = executor.lanes(text, [(32, f) for f in fragments], [64, 64], before)
    for matrix, fragment in enumerate(fragments):
        want = np.zeros((8, 8), np.uint16)
        for l in range(32):
            want[l // 4, 2 * (l % 4)] = int(fragment[l]) & 0xFFFF
            want[l // 4, 2 * (l % 4) + 1] = int(fragment[l]) >> 16
        got = out[:, 8 * matrix : 8 * matrix + 8].T.copy().view(np.uint16)
        checks.equal(f"stmatrix {matrix}", got, want)
    out = executor.lanes("movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;", [(32, fragments[0])], [32])
    m = np.zeros((8, 8), np.uint16)
    for l in range(32):
        m[l // 4, 2 * (l % 4)], m[l // 4, 2 * (l % 4) + 1] = int(fragments[0][l]) & 0xFFFF, int(fragments[0][l]) >> 16
    checks.equal("movmatrix", out[0], np.array([int(m.T[l // 4, 2 * (l % 4)]) | int(m.T[l // 4, 2 * (l % 4) + 1]) << 16 for l in range(32)], np.uint64))
    # cp.async of 16 bytes, of which the last lanes take fewer and zeros.
    sizes = np.where(np.arange(32) < 28, 16, np.arange(32) % 4 * 4)
    text = """mov.b32 %t0, tile; shl.b32 %t1, %thread, 4; add.u32 %t0, %t0, %t1;
      ld.param.u64 %in, [in]; mul.wide.u32 %offset, %thread, 16; add.s64 %in, %in, %offset;
      cp.async.cg.shared.global [%t0], [%in], 16, %a2;
      cp.async.commit_group; cp.async.wait_group 0; ld.shared.v2.b64 {%d0, %d1}, [%t0];"""
    lanes = np.array(words(64, 64), np.uint64)
    out = executor.lanes(text, [(64, lanes[:32]), (64, lanes[32:]), (32, sizes)], [64, 64], before)
    source = lanes.view(np.uint8).reshape(32, 16).copy()
    for l, size in enumerate(sizes):
        source[l, size:] = 0
    checks.equal("cp.async", out.T.copy().view(np.uint8), source)
    for kind, bits in (("s8", 8), ("u8", 8), ("s16", 16), ("u16", 16)):
        out = executor.lanes(f"ld.global.{kind} %d0, [%in];", [(64, lanes[:32])], [32])
        want = [int(v) & ((1 << bits) - 1) for v in lanes[:32]]
        want = [signed(v, bits) & M32 if kind[0] == "s" else v for v in want]
        checks.equal(f"ld.global.{kind}", out[0], np.array(want, np.uint64))
    out = executor.lanes("""mov.b32 %t0, tile; st.shared.u32 [%t0], 0; bar.warp.sync 0xffffffff;
      atom.shared.add.u32 %d0, [%t0], 1; bar.warp.sync 0xffffffff; ld.shared.u32 %d1, [%t0];""", [], [32, 32], before)
    checks.equal("atom.add", np.sort(out[0]), np.arange(32, dtype=np.uint64))
    checks.equal("atom.add sum", out[1], np.full(32, 32, np.uint64))
    for name, start, function in (("max.s32", -5 & M32, lambda v: max([-5] + [signed(x, 32) for x in v]) & M32), ("min.u32", M32, min),
                                  ("or.b32", 0, lambda v: int(np.bitwise_or.reduce(v))), ("xor.b32", 0, lambda v: int(np.bitwise_xor.reduce(v)))):
        given = words()
        out = executor.lanes(f"mov.b32 %t0, tile; st.shared.u32 [%t0], {start}; bar.warp.sync 0xffffffff; red.shared.{name} [%t0], %a0; bar.warp.sync 0xffffffff; ld.shared.u32 %d0, [%t0];",
                             [(32, given)], [32], before)
        checks.equal(f"red.{name}", out[0], np.full(32, function(given), np.uint64))
    text = "mov.b32 %t0, tile; st.shared.u32 [%t0], 30; bar.warp.sync 0xffffffff; atom.shared.inc.u32 %d0, [%t0], 40; bar.warp.sync 0xffffffff; ld.shared.u32 %d1, [%t0];"
    checks.equal("atom.inc", executor.lanes(text, [], [32, 32], before)[1], np.full(32, (30 + 32) % 41, np.uint64))
    # Four warps hand a number on through barriers, an mbarrier and generic addresses.
    text = """.reg .b64 %generic; .reg .b64 %bar;
      mov.b32 %t0, tile; setp.eq.u32 %p0, %thread, 0;
      @%p0 mbarrier.init.shared.b64 [%t0], 96;
      bar.sync 0;
      mul.lo.u32 %t1, %thread, 4; add.u32 %t1, %t1, %t0;
      cvt.u64.u32 %generic, %t1; cvta.shared.u64 %generic, %generic;
      shr.u32 %t2, %thread, 5; setp.lt.u32 %p1, %t2, 3;
      @!%p1 bra WAIT;
      st.u32 [%generic+64], %thread;
      mbarrier.arrive.shared.b64 _, [%t0];
      mov.b32 %d0, 1000;
      bra DONE;
    WAIT:
      mbarrier.try_wait.parity.shared.b64 %p2, [%t0], 0;
      @!%p2 bra WAIT;
      sub.u32 %t3, %t1, 384; ld.shared.u32 %d0, [%t3+64];
    DONE:
      bar.sync 1, 128;"""
    out = executor.lanes(text, [], [32], before, threads=128)
    checks.equal("mbarrier", out[0], np.concatenate([np.full(96, 1000), np.arange(32)]).astype(np.uint64))
    text = "setp.lt.u32 %p0, %thread, 40; bar.red.popc.u32 %d0, 0, %p0; bar.red.and.pred %p1, 0, %p0; bar.red.or.pred %p2, 0, %p0; selp.b32 %d1, 1, 0, %p1; selp.b32 %d2, 1, 0, %p2;"
    out = executor.lanes(text, [], [32] * 3, threads=96)
    checks.equal("bar.red", out, np.array([[40] * 96, [0] * 96, [1] * 96], np.uint64))


# ---- matrix products -----------------------------------------------------------------------------------

def codes(values, dtype):
    """Bits of the values in a format, as uint64."""
    if dtype == "tf32":
        return np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    array = np.asarray(values).astype(dtype)
    return array.view({1: np.uint8, 2: np.uint16}[array.dtype.itemsize]).astype(np.uint64)


def pack_registers(elements, width):
    """[lane][register][element] codes to [register][lane] words."""
    shift = np.arange(elements.shape[2], dtype=np.uint64) * np.uint64(width)
    return (elements << shift).sum(-1, dtype=np.uint64).T


def fragment_a(matrix, dtype, width):
    """The ISA's tables for m16n8k*: a_i is in row groupID (+8), and in column by thread in group and i."""
    per = 32 // width
    k = matrix.shape[1]
    count = k // (2 * per)
    elements = np.zeros((32, count, per), np.uint64)
    bits = codes(matrix, dtype)
    for l in range(32):
        for r in range(count):
            for e in range(per):
                row = l // 4 + (8 if r % 2 else 0)
                column = (l % 4) * per + e + (4 * per if r >= 2 else 0)
                elements[l, r, e] = bits[row, column]
    return pack_registers(elements, width)


def fragment_b(matrix, dtype, width):
    per = 32 // width
    count = matrix.shape[0] // (4 * per)
    elements = np.zeros((32, count, per), np.uint64)
    bits = codes(matrix, dtype)
    for l in range(32):
        for r in range(count):
            for e in range(per):
                elements[l, r, e] = bits[(l % 4) * per + e + 4 * per * r, l // 4]
    return pack_registers(elements, width)


def accumulator_rows(l, i):
    return l // 4 + (8 if i >= 2 else 0), 2 * (l % 4) + i % 2


def fragment_c(matrix, view):
    return np.array([[int(view(matrix[accumulator_rows(l, i)])) for l in range(32)] for i in range(4)], np.uint64)


def small(shape, low=-4, high=5):
    """Small integers: every product and sum is exact in every format."""
    return rng.integers(low, high, shape).astype(np.float32)


def mma():
    bits32 = lambda v: np.float32(v).view(np.uint32)
    cases = [("m16n8k16", "bf16", ml_dtypes.bfloat16, 16, 16), ("m16n8k8", "bf16", ml_dtypes.bfloat16, 16, 8),
             ("m16n8k16", "f16", np.float16, 16, 16), ("m16n8k8", "f16", np.float16, 16, 8),
             ("m16n8k8", "tf32", "tf32", 32, 8), ("m16n8k4", "tf32", "tf32", 32, 4),
             ("m16n8k32", "e4m3", ml_dtypes.float8_e4m3fn, 8, 32), ("m16n8k32", "e5m2", ml_dtypes.float8_e5m2, 8, 32)]
    for shape, name, dtype, width, k in cases:
        a, b, c = small((16, k)), small((k, 8)), small((16, 8))
        ra, rb, rc = fragment_a(a, dtype, width), fragment_b(b, dtype, width), fragment_c(c, bits32)
        inputs = [(32, r) for r in (*ra, *rb, *rc)]
        names = [f"%a{n}" for n in range(len(inputs))]
        va, vb, vc = names[: len(ra)], names[len(ra) : len(ra) + len(rb)], names[-4:]
        group = lambda v: "{" + ", ".join(v) + "}"
        text = f"mma.sync.aligned.{shape}.row.col.f32.{name}.{name}.f32 {{%d0, %d1, %d2, %d3}}, {group(va)}, {group(vb)}, {group(vc)};"
        out = executor.lanes(text, inputs, [32] * 4)
        checks.equal(f"mma {shape} {name}", out, fragment_c(a @ b + c, bits32))
    # Random numbers, whose sum may be rounded in any order.
    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((16, 16), (16, 8), (16, 8)))
    a, b = a.astype(ml_dtypes.bfloat16).astype(np.float32), b.astype(ml_dtypes.bfloat16).astype(np.float32)
    registers = (*fragment_a(a, ml_dtypes.bfloat16, 16), *fragment_b(b, ml_dtypes.bfloat16, 16), *fragment_c(c, bits32))
    out = executor.lanes("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7, %a8, %a9};",
                         [(32, r) for r in registers], [32] * 4)
    want = a.astype(np.float64) @ b.astype(np.float64) + c
    got = np.zeros((16, 8))
    for i in range(4):
        for l in range(32):
            got[accumulator_rows(l, i)] = as_f32(out[i])[l]
    checks.close("mma of random numbers", got, want, 16 * 2**-24 * 16)
    # f16 accumulators: two to a register.
    a, b, c = small((16, 16)), small((16, 8)), small((16, 8))
    half = lambda m: np.array([[int(codes(m[accumulator_rows(l, 2 * r)], np.float16)) | int(codes(m[accumulator_rows(l, 2 * r + 1)], np.float16)) << 16
                                for l in range(32)] for r in range(2)], np.uint64)
    registers = (*fragment_a(a, np.float16, 16), *fragment_b(b, np.float16, 16), *half(c))
    out = executor.lanes("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%d0, %d1}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7};", [(32, r) for r in registers], [32] * 2)
    checks.equal("mma f16 accumulators", out, half(a @ b + c))
    integer = lambda v: int(v) & M32
    for shape, k in (("m16n8k32", 32), ("m16n8k16", 16)):
        for name, dtype, low, high in (("s8", np.int8, -128, 128), ("u8", np.uint8, 0, 256)):
            a, b, c = small((16, k), low, high), small((k, 8), low, high), small((16, 8), -1000, 1000)
            ra, rb, rc = fragment_a(a, dtype, 8), fragment_b(b, dtype, 8), fragment_c(c, integer)
            names = [f"%a{n}" for n in range(len(ra) + len(rb) + 4)]
            group = lambda v: "{" + ", ".join(v) + "}"
            text = f"mma.sync.aligned.{shape}.row.col.s32.{name}.{name}.s32 {{%d0, %d1, %d2, %d3}}, {group(names[:len(ra)])}, {group(names[len(ra):-4])}, {group(names[-4:])};"
            out = executor.lanes(text, [(32, r) for r in (*ra, *rb, *rc)], [32] * 4)
            checks.equal(f"mma {shape} {name}", out, fragment_c(a.astype(np.int64) @ b.astype(np.int64) + c.astype(np.int64), integer))
    a, b, c = (rng.integers(-9, 9, s).astype(np.float64) for s in ((8, 4), (4, 8), (8, 8)))
    lane = np.arange(32)
    registers = [a[lane // 4, lane % 4], b[lane % 4, lane // 4], c[lane // 4, 2 * (lane % 4)], c[lane // 4, 2 * (lane % 4) + 1]]
    out = executor.lanes("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0, %d1}, {%a0}, {%a1}, {%a2, %a3};", [(64, r.view(np.uint64)) for r in registers], [64, 64])
    d = a @ b + c
    checks.equal("mma m8n8k4 f64", out, np.stack([d[lane // 4, 2 * (lane % 4)], d[lane // 4, 2 * (lane % 4) + 1]]).view(np.uint64))


def descriptor_offset(outer, inner, per, swizzle, mn_major, leading, stride):
    """Where an element lies, in bytes, by CUTLASS's canonical layouts. K-major: `outer` is the row, `inner`
    runs along k; MN-major: `outer` is k, `inner` runs along m or n. `per` elements fill 16 bytes."""
    width = {0: 1, 32: 2, 64: 4, 128: 8}[swizzle]
    size = 16 // per
    if not mn_major:
        offset = (outer % 8) * width * 16 + (outer // 8) * stride + (inner // per) * (leading if swizzle == 0 else 16) + inner % per * size
    elif swizzle == 0:
        offset = inner % per * size + (inner // per) * stride + (outer % 8) * 16 + (outer // 8) * leading
    else:
        unit = inner // per
        offset = inner % per * size + (unit % width) * 16 + (unit // width) * leading + (outer % 8) * width * 16 + (outer // 8) * stride
    # Swizzle<B, 4, 3>: bits 4 … 4+B-1 are exchanged with bits 7 … 7+B-1.
    return offset ^ (offset >> 7 & (width - 1)) << 4


def wgmma_case(name, dtype, width, n, swizzle, a_major, b_major, from_registers=False):
    """D = A·B of m64nNk(256 bits), A and B in shared memory as descriptors say."""
    k = 256 // width
    per = 128 // width
    a, b = small((64, k)), small((k, n))
    span = {0: 1, 32: 2, 64: 4, 128: 8}[swizzle]
    shared = np.zeros(1 << 16, np.uint8)
    descriptors = []
    for base, matrix, rows, mn_major in ((0, a, 64, a_major), (1 << 15, b.T, n, b_major)):
        if not mn_major:
            stride, leading = span * 128, (span * 128 * rows // 8 if swizzle == 0 else 16)
        elif swizzle == 0:
            leading, stride = 128, 256
        else:
            leading, stride = span * 16 * 8 * 2, span * 16 * 8
        bits = codes(matrix, dtype)
        size = width // 8
        for row in range(rows):
            for column in range(k):
                outer, inner = (column, row) if mn_major else (row, column)
                at = base + descriptor_offset(outer, inner, per, swizzle, mn_major, leading, stride)
                shared[at : at + size] = np.frombuffer(int(bits[row, column]).to_bytes(size, "little"), np.uint8)
        kind = {0: 0, 128: 1, 64: 2, 32: 3}[swizzle]
        descriptors.append(base >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | kind << 62)
    count = n // 2
    group = "{" + ", ".join(f"%c{r}" for r in range(count)) + "}"
    transposes = "" if width != 16 else f", {int(b_major)}" if from_registers else f", {int(a_major)}, {int(b_major)}"
    operand = "{%w0, %w1, %w2, %w3}" if from_registers else "%da"
    loads = ""
    if from_registers:
        loads = "shl.b32 %t0, %thread, 4; cvt.u64.u32 %at, %t0; add.s64 %at, %fragments, %at; ld.global.v4.b32 {%w0, %w1, %w2, %w3}, [%at];"
    text = HEADER + f""".extern .shared .align 1024 .b8 tile[];
    .visible .entry k(.param .u64 image, .param .u64 result, .param .u64 fragment) {{
      .reg .b64 %image, %result, %fragments, %at, %da, %db, %base; .reg .b32 %thread, %t<8>, %w<4>; .reg .f32 %c<{count}>; .reg .pred %p<4>;
      ld.param.u64 %image, [image]; ld.param.u64 %result, [result]; ld.param.u64 %fragments, [fragment]; mov.u32 %thread, %tid.x;
      shl.b32 %t1, %thread, 4; mov.b32 %t2, tile; add.u32 %t2, %t2, %t1; cvt.u64.u32 %at, %t1; add.s64 %at, %image, %at;
      mov.b32 %t3, 0;
    FILL:
      ld.global.v4.b32 {{%t4, %t5, %t6, %t7}}, [%at]; st.shared.v4.b32 [%t2], {{%t4, %t5, %t6, %t7}};
      add.s64 %at, %at, 2048; add.u32 %t2, %t2, 2048; add.u32 %t3, %t3, 2048; setp.lt.u32 %p0, %t3, 65536;
      @%p0 bra FILL;
      fence.proxy.async; bar.sync 0;
      mov.b32 %t2, tile; shr.u32 %t2, %t2, 4; cvt.u64.u32 %base, %t2;
      add.s64 %da, %base, {descriptors[0]}; add.s64 %db, %base, {descriptors[1]};
      {loads}
      setp.ne.b32 %p1, 0, 0;
      wgmma.fence.sync.aligned;
      wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{name}.{name} {group}, {operand}, %db, %p1, 1, 1{transposes};
      wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{name}.{name} {group}, {operand}, %db, 1, 1, -1{transposes};
      wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{name}.{name} {group}, {operand}, %db, 1, 1, 1{transposes};
      wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
      mul.wide.u32 %at, %thread, 4; add.s64 %at, %result, %at;
      {"".join(f"st.global.f32 [%at+{512 * r}], %c{r};" for r in range(count))}
      ret;
    }}
    """
    fragments = np.zeros((4, 32, 4), np.uint32)
    for w in range(4):
        fragments[w] = fragment_a(a[16 * w : 16 * w + 16], dtype, width).T.astype(np.uint32)
    out = np.zeros((count, 128), np.float32)
    executor.run(text, "k", [shared, out, fragments], block=(128, 1, 1), shared=1 << 16)
    want = a @ b  # added, taken away and added again
    got = np.zeros((64, n), np.float32)
    for thread in range(128):
        for r in range(count):
            row = 16 * (thread // 32) + thread % 32 // 4 + (8 if r % 4 >= 2 else 0)
            got[row, 8 * (r // 4) + 2 * (thread % 4) + r % 2] = out[r, thread]
    label = f"wgmma n{n} {name} swizzle {swizzle} {'MN' if a_major else 'K'}/{'MN' if b_major else 'K'}{' registers' if from_registers else ''}"
    checks.equal(label, got.view(np.uint32), want.astype(np.float32).view(np.uint32))


def wgmma():
    bf16 = ml_dtypes.bfloat16
    for swizzle in (0, 32, 64, 128):
        wgmma_case("bf16", bf16, 16, 64, swizzle, False, False)
        wgmma_case("bf16", bf16, 16, 64, swizzle, True, True)
        wgmma_case("f16", np.float16, 16, 128, swizzle, False, True)
        wgmma_case("e4m3", ml_dtypes.float8_e4m3fn, 8, 32, swizzle, False, False)
    wgmma_case("bf16", bf16, 16, 256, 128, False, True)
    wgmma_case("bf16", bf16, 16, 8, 128, False, False)
    wgmma_case("bf16", bf16, 16, 64, 128, False, True, from_registers=True)
    wgmma_case("tf32", "tf32", 32, 64, 128, False, False)


def counted_bytes():
    """What lanes read together counts once: 32, 4 and 1 places of 4 bytes."""
    for shift, places in ((0, 32), (3, 4), (5, 1)):
        text = HEADER + f""".visible .entry k(.param .u64 in) {{
.reg .b64 %in, %offset; .reg .b32 %lane, %value;
ld.param.u64 %in, [in]; mov.u32 %lane, %tid.x; shr.u32 %lane, %lane, {shift};
mul.wide.u32 %offset, %lane, 4; add.s64 %in, %in, %offset; ld.global.b32 %value, [%in];
ret;
}}"""
        counters = executor.run(text, "k", [np.zeros(32, np.uint32)])
        checks.equal(f"bytes of {places} places", counters.global_bytes_read, 4 * places)


np.seterr(all="ignore")
families = (integers, bits, arithmetic_of_floats, comparisons, conversions, halves, warp, memory, mma, wgmma, counted_bytes)
for family in families:
    family()
checks.finish()
