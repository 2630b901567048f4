"""Memory of a CUDA device, here the emulated one, from Python: for libraries linked with a CUDA runtime."""

import ctypes

import numpy as np


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


class Device:
    """What it hands out is freed by `release`."""

    def __init__(self, library):
        self.library = library
        self.held = []

    def check(self, code, what):
        if code != 0:
            raise RuntimeError(f"{what}: CUDA error {code}")

    def empty(self, count):
        address = ctypes.c_void_p()
        self.check(self.library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(count)), "cudaMalloc")
        self.held.append(address)
        return address

    def put(self, array, count=None):
        count = array.nbytes if count is None else count
        address = self.empty(max(count, 16))
        code = self.library.cudaMemcpy(address, pointer(array), ctypes.c_size_t(count), 1)
        self.check(code, "cudaMemcpy")
        return address

    def get(self, address, shape, dtype):
        array = np.empty(shape, dtype)
        code = self.library.cudaMemcpy(pointer(array), address, ctypes.c_size_t(array.nbytes), 2)
        self.check(code, "cudaMemcpy")
        return array

    def release(self):
        for address in self.held:
            self.library.cudaFree(address)
