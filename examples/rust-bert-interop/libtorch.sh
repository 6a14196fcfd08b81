#!/usr/bin/env bash
# libtorch 2.4.0 for the CPU, taken from the Python wheel of the same version:  ./libtorch.sh FOLDER
# Needs python3 with pip, gcc, and 2 GB while it works; 0.6 GB stay.
set -euo pipefail
folder=$(realpath -m "${1:?name the folder that libtorch shall lie in}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --dest "$work" \
    torch==2.4.0 nvidia-cuda-runtime-cu12==12.1.105 nvidia-cuda-cupti-cu12==12.1.105
python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
wanted = ("torch/include/", "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp",
          "nvidia/cuda_runtime/lib/libcudart", "nvidia/cuda_cupti/lib/libcupti")
for wheel in work.glob("*.whl"):
    with zipfile.ZipFile(wheel) as files:
        files.extractall(work, [name for name in files.namelist() if name.startswith(wanted)])
    wheel.unlink()
PYTHON
mkdir -p "$folder/lib"
cp -r "$work/torch/include" "$folder/"
cp "$work"/torch/lib/*.so* "$work"/nvidia/*/lib/*.so* "$folder/lib/"
# libtorch.so of the wheel would ask for CUDA's part; this one asks for the CPU's alone.
echo 'void persona_no_cuda(void) {}' > "$work/stub.c"
gcc -shared -o "$folder/lib/libtorch.so" "$work/stub.c" -Wl,-soname,libtorch.so -Wl,--no-as-needed \
    -L"$folder/lib" -ltorch_cpu -lc10 -Wl,-rpath-link,"$folder/lib"
echo 2.4.0 > "$folder/build-version"
echo "libtorch 2.4.0 lies in $folder"
