#!/usr/bin/env bash
# Builds, tests, sanitises and measures on a machine with an NVIDIA GPU, within a time budget and without a network.
#
#   benchmarks/gpu.sh [--out DIR] [--seconds 480] [--only PART[,PART…]] [--device cuda|cpu] [--commit NAME]
#                     [--dry-run]
#
# Parts, most valuable first; each runs under a time limit, and one that fails stops none:
#   build      installs this tree into OUT/site, with kernels for this GPU, and looks at their registers and spills;
#              without this part, what an earlier run put there counts
#   tests      pytest -m gpu, in tests/kernels and tests/engine
#   sanitize   compute-sanitizer on the attention kernels: memory errors, races in shared memory, synchronisation
#   training   whole training steps, rows per second: base, prl, erl
#   losses, attention, inference, retrieval, rollout      the cases of benchmarks/test_*.py
#
# OUT (default: gpu-results) gets PART.log of every part, PART.json of what was measured (`python benchmarks/report`
# reads it) and parts.json, which says how each part ended. Everything is written as it comes: what stands there when
# time is up is a usable result. The status is 1 when a part failed or was stopped.
# --commit says what the tree is called where git cannot tell. PYTHON is the interpreter (default: python3).
# --dry-run prints the commands. --device cpu runs all of it without a GPU, on what is installed, in tiny sizes.
set -uo pipefail

PARTS=(build tests sanitize training losses attention inference retrieval rollout)
CHECKS=" build tests sanitize "
declare -A LIMIT=([build]=200 [tests]=150 [sanitize]=90)             # seconds of a check at most
declare -A WEIGHT=([training]=3 [losses]=3 [attention]=2 [inference]=1 [retrieval]=2 [rollout]=1)
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$(printf %q "$repository")   # as a command line wants it
python=${PYTHON:-python3} out=gpu-results seconds=480 only="${PARTS[*]}" device=cuda dry_run=
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")

fail() { echo "gpu.sh: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?} ; shift 2 ;;
    --seconds) seconds=${2:?} ; shift 2 ;;
    --only) only=${2//,/ } ; shift 2 ;;
    --device) device=${2:?} ; shift 2 ;;
    --commit) export BENCH_COMMIT=${2:?} ; shift 2 ;;
    --dry-run) dry_run=1 ; shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" ; exit ;;
    *) fail "$1: no such option, see --help" ;;
  esac
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "--seconds: got $seconds, expected a whole number above 0"
[[ $device == cuda || $device == cpu ]] || fail "--device: got $device, expected cuda or cpu"
for part in $only; do [[ " ${PARTS[*]} " == *" $part "* ]] || fail "--only: $part is none of ${PARTS[*]}"; done
chosen=()
for part in "${PARTS[@]}"; do [[ " $only " == *" $part "* ]] && chosen+=("$part"); done

began=$SECONDS
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
export PYTHONPATH="$out/site:$repository/benchmarks:$repository/tests/support${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 TRITON_INTERPRET=0
tiny=() jobs=() arch="" gpu_tests="$here/tests/kernels $here/tests/engine"
if [ "$device" = cpu ]; then
  unset TRITON_INTERPRET
  tiny=(--tiny) gpu_tests=$here/tests/engine/test_cuda_graphs.py
elif [ -z "$dry_run" ]; then
  arch=$("$python" -c 'import torch; from measure.machine import arch_of; print(arch_of(torch.cuda.get_device_capability()))') ||
    fail "torch sees no CUDA device; --device cpu does without"
  "$python" -c 'import xdist' 2> /dev/null && jobs=(-n 8)     # most of testing is compiling
  missing=$("$python" -c 'import sys; from importlib.util import find_spec as find
print(*[name for name in sys.argv[1:] if find(name) is None])' \
    pybind11 ninja setuptools triton pytest pytest_benchmark hypothesis lazy_loader lightning polars safetensors)
  [ -z "$missing" ] || echo "gpu.sh: not installed: $missing; what imports them will fail" >&2
fi

command_of() { # sets `run` to the commands of a part, to be passed to bash; $2: seconds it has
  local pytest="$python -m pytest -c $here/pyproject.toml -p no:cacheprovider -q"
  local sanitized="$python $here/benchmarks/sanitized.py --device $device" to
  to=$(printf %q "$out")
  case $1 in
    build)
      run="REAREC_NATIVE=1 REAREC_CUDA=1 REAREC_CUDA_ARCHS=$arch $python -m pip --isolated --disable-pip-version-check install
        --no-index --no-build-isolation --no-deps --no-compile --upgrade --target $to/site $here &&
        cat $here/build/temp.*/*.cu.o.log && $pytest $here/tests/kernels/test_cuda_resources.py"
      [ "$device" = cuda ] || run="$python -c 'import rearec_kernels; print(rearec_kernels.build_info())'" ;;
    tests)   # always with a kernel's first blocks; a test module that cannot be imported stops no other
      run="REAREC_TRITON_AUTOTUNE=0 $pytest ${jobs[*]} -m gpu --continue-on-collection-errors --tb=short --durations=5
        --maxfail=25 $gpu_tests" ;;
    sanitize)
      # Every tensor an allocation of its own, with room between: an access beyond its end is one outside of any.
      # One access out of bounds is planted, which the sanitizer has to see.
      local tool="PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=2 $sanitizer --error-exitcode 9 --tool"
      run="bad=; $tool memcheck --padding 4096 $sanitized & one=\$!; $tool racecheck $sanitized & two=\$!;
        $tool synccheck $sanitized & three=\$!;
        $tool memcheck $sanitized --out-of-bounds 2>&1 | grep attention_forward || bad+=' the planted access was not seen;';
        wait \$one || bad+=' memcheck;'; wait \$two || bad+=' racecheck;'; wait \$three || bad+=' synccheck;';
        [ -z \"\$bad\" ] || { echo \"failed:\$bad\"; exit 1; }"
      [ "$device" = cuda ] || run=$sanitized ;;
    *)
      run="$pytest $here/benchmarks/test_$1.py --device $device ${tiny[*]} --bench-json $to/$1.json
        --bench-seconds $(($2 > 20 ? $2 - 10 : $2))" ;;
  esac
  set -f; run=$(echo $run); set +f   # on one line; names with * are for the command to find
}

status=0 ended=()
record() { # a part, how it ended, its seconds and its limit
  ended+=("{\"part\": \"$1\", \"status\": \"$2\", \"seconds\": $3, \"limit\": $4}")
  echo "$1: $2, $3 s of $4"
  [[ $2 == passed ]] || status=1
  { printf '{"date": "%s", "device": "%s", "budget": %s, "seconds": %s, "parts": [\n' \
      "$(date +%F)" "$device" "$seconds" $((SECONDS - began))
    local i; for i in "${!ended[@]}"; do printf ' %s%s\n' "${ended[i]}" "$([ "$i" -lt $((${#ended[@]} - 1)) ] && echo ,)"; done
    echo ']}'; } > "$out/parts.json"
}
limit_of() { # sets `limit`: a check leaves the measurements two fifths; these share what is left by their weights
  local left=$((seconds - (SECONDS - began))) weights=0 measured= part
  for part in "${chosen[@]:$2}"; do
    [[ $CHECKS == *" $part "* ]] || { measured=1; weights=$((weights + WEIGHT[$part])); }
  done
  if [[ $CHECKS == *" $1 "* ]]; then
    [ -z "$measured" ] || left=$((left - seconds * 2 / 5))
    limit=$((left < LIMIT[$1] ? left : LIMIT[$1]))
  else
    limit=$((left * WEIGHT[$1] / weights))
  fi
}

sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
cd "$out" || exit 2   # not the repository: the installed packages are to be imported, not its source tree
for i in "${!chosen[@]}"; do
  part=${chosen[i]}
  limit_of "$part" "$i"
  command_of "$part" "$limit"
  if [ -n "$dry_run" ]; then echo "$part ($limit s): $run"; continue; fi
  if [ "$limit" -lt 1 ]; then record "$part" "no time was left" 0 0; continue; fi
  start=$SECONDS
  signal=INT   # pytest then ends with what it has; programs in the background do not hear it
  [ "$part" != sanitize ] || signal=TERM
  timeout --signal=$signal --kill-after=10 "$limit" bash -c "$run" > "$part.log" 2>&1 < /dev/null
  code=$?
  case $code in 0) how=passed ;; 124 | 137) how=stopped ;; *) how="failed: exit status $code" ;; esac
  record "$part" "$how" $((SECONDS - start)) "$limit"
  [ "$how" = passed ] || tail -n 25 "$part.log"
  case $part in training | losses | attention | inference | retrieval | rollout)
    sed -n '/comparisons: medians/,/^-.*benchmark: /p' "$part.log" ;;
  esac
done
exit $status
