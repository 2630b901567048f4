#!/usr/bin/env bash
# Builds the rival: native llama.cpp for this very machine, from the sources in the PyPI package
# llama-cpp-python, and the driver llama_driver.cpp. Wants pip, cmake and a C++ compiler.
#
#   bench/peers/build_llama.sh <folder outside of the repository>
#
# Leaves <folder>/llama_driver, and <folder>/python with what make_gguf.py imports.
set -euo pipefail

VERSION=0.3.36 # of llama-cpp-python; it decides llama.cpp's
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?"Cannot build llama.cpp: no folder is given; usage: $0 <folder>"}
jobs=${JOBS:-2}

mkdir -p "$folder"
cd "$folder"
if [ ! -d "llama_cpp_python-$VERSION" ]; then
  pip download --quiet --no-deps --no-binary :all: "llama-cpp-python==$VERSION" -d .
  tar xzf "llama_cpp_python-$VERSION.tar.gz"
fi
sources="$folder/llama_cpp_python-$VERSION/vendor/llama.cpp"

cmake -S "$sources" -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON \
  -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF
nice -n 10 cmake --build build --target llama -j "$jobs"
g++ -O2 -std=c++17 -fopenmp -I "$sources/include" -I "$sources/ggml/include" \
  "$here/llama_driver.cpp" build/src/libllama.a \
  -Wl,--start-group build/ggml/src/*.a -Wl,--end-group -ldl -lpthread -o llama_driver

if [ ! -d python ]; then
  pip install --quiet --target python --no-deps "numpy<3" pyyaml tqdm requests "$sources/gguf-py"
fi
echo "$folder/llama_driver"
