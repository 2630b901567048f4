"""The executor for tests: its library, and a kernel around a few instructions of every lane."""

import ctypes
import sys

import numpy as np

HEADER = ".version 8.7\n.target sm_90a\n.address_size 64\n"


class Counters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "warp_instructions", "tensor_instructions", "multiply_adds", "global_bytes_read",
        "global_bytes_written", "shared_bytes_read", "shared_bytes_written", "barriers", "reports")]


class Options(ctypes.Structure):
    _fields_ = [("instruction_limit", ctypes.c_uint64), ("seed", ctypes.c_uint64),
                ("host_threads", ctypes.c_uint32), ("tolerated", ctypes.c_uint32)]


class Executor:
    def __init__(self, path):
        self.library = library = ctypes.CDLL(path)
        library.ptx_load.restype = ctypes.c_void_p
        library.ptx_error.restype = ctypes.c_char_p

    def error(self):
        return self.library.ptx_error().decode()

    def run(self, text, kernel, buffers, grid=(1, 1, 1), block=(32, 1, 1), shared=0, options=None):
        """Launches a kernel whose parameters are pointers to the arrays; they are changed in place."""
        module = self.library.ptx_load(text.encode())
        if not module:
            raise RuntimeError(self.error())
        try:
            for number, buffer in enumerate(buffers):
                self.library.ptx_add_memory(buffer.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(buffer.nbytes),
                                            f"buffer {number}".encode())
            pointers = [ctypes.c_uint64(buffer.ctypes.data) for buffer in buffers]
            arguments = (ctypes.c_void_p * max(len(pointers), 1))(*[ctypes.addressof(p) for p in pointers])
            counters = Counters()
            code = self.library.ptx_launch(
                ctypes.c_void_p(module), kernel.encode(), (ctypes.c_uint32 * 3)(*grid),
                (ctypes.c_uint32 * 3)(*block), shared, arguments, 0,
                ctypes.byref(options) if options else None, ctypes.byref(counters))
            if code != 0:
                raise RuntimeError(self.error())
            return counters
        finally:
            for buffer in buffers:
                self.library.ptx_remove_memory(buffer.ctypes.data_as(ctypes.c_void_p))
            self.library.ptx_unload(ctypes.c_void_p(module))

    def lanes(self, body, inputs, results, before="", threads=32, shared=0):
        """Runs `body` on every thread of a block.

        `inputs` is a list of (bits, array): %a0, %a1, … are registers of so many bits with the thread's
        element. `results` is a list of bits: %d0, %d1, …, of which arrays of uint64 are given back.
        `before` is text of module scope.
        """
        text = HEADER + before + ".visible .entry k(.param .u64 in, .param .u64 out) {\n"
        text += ".reg .b64 %in, %out, %offset;\n.reg .b32 %thread;\n.reg .pred %p<8>;\n.reg .b32 %t<64>;\n"
        text += "".join(f".reg .b{bits} %a{n};\n" for n, (bits, _) in enumerate(inputs))
        text += "".join(f".reg .b{bits} %d{n};\n" for n, bits in enumerate(results))
        text += "ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %thread, %tid.x;\n"
        text += "mul.wide.u32 %offset, %thread, 8;\nadd.s64 %in, %in, %offset;\nadd.s64 %out, %out, %offset;\n"
        for n, (bits, _) in enumerate(inputs):
            text += f"ld.global.b{bits} %a{n}, [%in+{8 * threads * n}];\n"
        text += body + "\n"
        for n, bits in enumerate(results):
            text += f"st.global.b{bits} [%out+{8 * threads * n}], %d{n};\n"
        text += "ret;\n}\n"
        given = np.zeros((max(len(inputs), 1), threads), np.uint64)
        for n, (_, values) in enumerate(inputs):
            given[n] = np.resize(np.array([int(v) for v in values], np.uint64), threads)
        out = np.zeros((max(len(results), 1), threads), np.uint64)
        self.run(text, "k", [given, out], block=(threads, 1, 1), shared=shared)
        return out


class Checks:
    """Counts checks and tells of those that fail."""

    def __init__(self):
        self.passed = self.failed = 0

    def equal(self, name, got, want):
        got, want = np.asarray(got), np.asarray(want)
        if got.shape == want.shape and (got == want).all():
            self.passed += 1
            return
        self.failed += 1
        at = np.argwhere(got != want)[0] if got.shape == want.shape else None
        where = "" if at is None else f" at {tuple(int(i) for i in at)}: {got[tuple(at)]:#x}, not {want[tuple(at)]:#x}"
        print(f"FAILED {name}{where}", flush=True)

    def close(self, name, got, want, tolerance):
        error = np.nan_to_num(np.abs(np.asarray(got, np.float64) - want), nan=np.inf).max()
        if error <= tolerance:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}: error {error:.3g}, not within {tolerance:.3g}", flush=True)

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)
