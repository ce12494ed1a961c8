#!/usr/bin/env bash
# Everything that needs a GPU, in one run on a machine that has one: build, tests, sanitizers, benchmarks, demo.
#
#   scripts/gpu_check.sh OUT_DIR
#
# Needs nvcc, cmake, ninja and a Python whose torch has CUDA; $PYTHON (default python3) names it, $CUDA_ARCH
# (default: that of the first GPU) the architecture to build for. Each step logs to OUT_DIR/<step>.log and may fail without stopping
# the others; OUT_DIR/summary.json holds machine, versions, and rc and seconds of each step. Exits 1 if a step failed.
set -u

if [ $# -ne 1 ]; then
    echo "usage: $0 OUT_DIR" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
build=$out/build
steps=$out/steps.tsv
failed=0
: > "$steps"

# run NAME COMMAND...: one step, its output in a file of its own.
run() {
    local name=$1 start rc
    shift
    start=$(date +%s.%N)
    echo "== $name"
    "$@" > "$out/$name.log" 2>&1
    rc=$?
    printf '%s\t%s\t%s\n' "$name" "$rc" "$(echo "$(date +%s.%N) $start" | awk '{printf "%.1f", $1 - $2}')" >> "$steps"
    if [ "$rc" -ne 0 ]; then
        failed=1
        echo "   failed with $rc; the end of $out/$name.log:"
        tail -n 15 "$out/$name.log"
    fi
    return "$rc"
}

# skip NAME REASON
skip() {
    echo "== $1: skipped, $2"
    printf '%s\tskipped: %s\t0\n' "$1" "$2" >> "$steps"
}

torch_dir=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2> "$out/torch.log") || torch_dir=""
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1 | tr -d '. ')
arch=${CUDA_ARCH:-${capability:-90}-real}
libraries=$(pwd)/torch_ext/detent/lib

configure=(cmake -S . -B "$build" -G Ninja -DDETENT_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$arch" "-DDETENT_LIBRARY_DIR=$libraries")
if [ -n "$torch_dir" ]; then
    configure+=("-DDETENT_TORCH_DIR=$torch_dir")
else
    skip torch "$python has no torch"
    failed=1
fi

run configure "${configure[@]}"
run build cmake --build "$build" --parallel
run cuda_resources "$python" scripts/cuda_resources.py "$build"

tests=$(find "$build" -name detent_kernel_tests -type f -perm -u+x 2> /dev/null | head -n 1)
if [ -n "$tests" ]; then
    run googletest "$tests" "--gtest_output=xml:$out/googletest.xml"
    # Skipped CUDA tests on a GPU machine are a failure of this check.
    run cuda_tests_ran sh -c "! grep -q 'SKIPPED.*Cuda' '$out/googletest.log'"
    if command -v compute-sanitizer > /dev/null; then
        for tool in memcheck racecheck; do
            run "$tool" timeout 1500 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" \
                --gtest_filter='Cuda.*:-*large*:*whatever_the_alignment*'
        done
    else
        skip compute_sanitizer "not installed"
    fi
else
    skip googletest "not built"
    failed=1
fi

if [ -n "$torch_dir" ]; then
    export PYTHONPATH=$PWD/torch_ext${PYTHONPATH:+:$PYTHONPATH}
    if [ -d tests/python ]; then
        run pytest env "DETENT_BUILD=$build" "$python" -m pytest tests/python -q "--junitxml=$out/pytest.xml"
    else
        skip pytest "no tests/python"
    fi
    if [ -f benchmarks/run.py ]; then
        run benchmarks "$python" benchmarks/run.py --out "$out/benchmarks"
    else
        skip benchmarks "no benchmarks/run.py"
    fi
    if [ -f examples/digits_qat.py ]; then
        run demo "$python" examples/digits_qat.py --out "$out/demo"
    else
        skip demo "no examples/digits_qat.py"
    fi
fi

"$python" - "$out" "$(git rev-parse HEAD 2> /dev/null || echo unknown)" << 'PY' || failed=1
import json
import pathlib
import subprocess
import sys

out, commit = pathlib.Path(sys.argv[1]), sys.argv[2]


def answer(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


try:
    import torch

    torch_version, cuda = torch.__version__, torch.version.cuda
except ImportError:
    torch_version = cuda = None
gpu = answer("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
device, driver = ([part.strip() for part in gpu.splitlines()[0].split(",")] if gpu else (None, None))
nvcc = answer("nvcc", "--version")
steps = []
for line in (out / "steps.tsv").read_text().splitlines():
    name, rc, seconds = line.split("\t")
    skipped = rc.startswith("skipped")
    steps.append({"name": name, "rc": None if skipped else int(rc), "seconds": float(seconds), **({"skipped": rc[9:]} if skipped else {})})
summary = {
    "device": device,
    "driver": driver,
    "torch": torch_version,
    "torch_cuda": cuda,
    "nvcc": nvcc.splitlines()[-1] if nvcc else None,
    "python": sys.version.split()[0],
    "commit": commit,
    "steps": steps,
}
(out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
print(json.dumps(summary, indent=2))
PY

exit "$failed"
