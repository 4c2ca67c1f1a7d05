#!/usr/bin/env bash
# Build chatglm.cpp and llama.cpp for this machine's processor, from the sources that PyPI serves.
#
#     benchmarks/peers/build.sh [BUILD_DIRECTORY = /tmp/glm-peers]
#
# Needs a C++17 compiler, CMake and Ninja (both are also on PyPI: pip install cmake ninja), and 1.5 GB of
# disk. Sources that lie in BUILD_DIRECTORY/sdists already are not downloaded again. JOBS (2) compilers run
# at the same time. Prints one line of JSON: where each program is and what it was built from.
set -euo pipefail

CHATGLM_CPP=0.4.2
LLAMA_CPP_PYTHON=0.3.36

here=$(cd "$(dirname "$0")" && pwd)
build=${1:-/tmp/glm-peers}
jobs=${JOBS:-2}
mkdir -p "$build/sdists"
build=$(cd "$build" && pwd)

fetch() { # NAME VERSION FILE
    [ -f "$build/sdists/$3" ] && return
    python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$build/sdists" "$1==$2" >&2
}

unpack() { # FILE DIRECTORY
    [ -d "$build/$2" ] || tar -xzf "$build/sdists/$1" -C "$build"
}

fetch chatglm-cpp "$CHATGLM_CPP" "chatglm_cpp-$CHATGLM_CPP.tar.gz"
fetch llama-cpp-python "$LLAMA_CPP_PYTHON" "llama_cpp_python-$LLAMA_CPP_PYTHON.tar.gz"
unpack "chatglm_cpp-$CHATGLM_CPP.tar.gz" "chatglm_cpp-$CHATGLM_CPP"
unpack "llama_cpp_python-$LLAMA_CPP_PYTHON.tar.gz" "llama_cpp_python-$LLAMA_CPP_PYTHON"

# chatglm.cpp's ggml enables only AVX2 by itself; -march=native gives it everything that the processor has.
cmake -S "$here/chatglm_cpp" -B "$build/chatglm" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCHATGLM_CPP_SOURCE="$build/chatglm_cpp-$CHATGLM_CPP" \
    -DCMAKE_C_FLAGS=-march=native -DCMAKE_CXX_FLAGS=-march=native -DCMAKE_POLICY_VERSION_MINIMUM=3.5 >&2
nice -n 10 cmake --build "$build/chatglm" --target chatglm_bench -j "$jobs" >&2

cmake -S "$build/llama_cpp_python-$LLAMA_CPP_PYTHON/vendor/llama.cpp" -B "$build/llama" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_BUILD_COMMON=ON \
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >&2
nice -n 10 cmake --build "$build/llama" --target llama-batched-bench -j "$jobs" >&2

cc -O3 -march=native -fopenmp "$here/read_bandwidth.c" -o "$build/read_bandwidth"

# Their own package writes the file format; random_model.py uses it.
[ -d "$build/venv" ] || python3 -m venv "$build/venv"
"$build/venv/bin/pip" install --quiet numpy "$build/llama_cpp_python-$LLAMA_CPP_PYTHON/vendor/llama.cpp/gguf-py" >&2

printf '{"chatglm_bench": "%s", "llama_batched_bench": "%s", "python": "%s", ' \
    "$build/chatglm/bin/chatglm_bench" "$build/llama/bin/llama-batched-bench" "$build/venv/bin/python"
printf '"read_bandwidth": "%s", ' "$build/read_bandwidth"
printf '"chatglm_cpp": "%s", "llama_cpp_python": "%s", "compiler": "%s"}\n' \
    "$CHATGLM_CPP" "$LLAMA_CPP_PYTHON" "$(c++ --version | head -n 1)"
