#!/usr/bin/env bash
# bash benchmarks/gpu/run.sh DATA OUT [--seconds 570] [--stages "parity speed teacher colabator"] [--device cuda]
#                                     [--work runs/gpu] [--steps N] [--set KEY=VALUE ...]
# All that a machine with one GPU, torch and neither Ray nor network is asked for, within --seconds. DATA is what
# benchmarks/gpu/pack.py made, with wheels/ where packages are missing here. At most eight files come to OUT:
# results.json, log.txt, sheet.jpg and the weights in parts (benchmarks/gpu/join.py). Each stage writes its result when
# it has it; one that fails does not stop the others, and the exit code is how many failed. The same command goes on
# with training where it was: --stages "teacher colabator" for more of it.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 64
[ $# -ge 2 ] || { sed -n '2,3s/^# //p' benchmarks/gpu/run.sh >&2; exit 64; }
data=$(realpath -m "$1") out=$(realpath -m "$2"); shift 2
seconds=570 stages="parity speed teacher colabator" device=cuda work=runs/gpu more=()
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 64; }
  case $1 in
    --seconds) seconds=$2 ;;
    --stages) stages=$2 ;;
    --device) device=$2 ;;
    --work) work=$2 ;;
    --steps | --set) more+=("$1" "$2") ;;
    *) echo "error: $1 is no flag of this script" >&2; exit 64 ;;
  esac
  shift 2
done
python=${PYTHON:-python3}
mkdir -p "$out" "$work" || exit 64
log=$out/log.txt until=$((SECONDS + seconds)) failed=0
export PYTHONUNBUFFERED=1 TQDM_DISABLE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if compgen -G "$data/wheels/*.whl" > /dev/null; then
  site=$(realpath "$work")/site
  if [ ! -d "$site" ]; then # whole or not at all
    rm -rf "$site.partial"
    for wheel in "$data"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$site.partial" 2>&1 | tee -a "$log"; done
    mv "$site.partial" "$site"
  fi
  echo "packages of $data/wheels are in $site" | tee -a "$log"
  export PYTHONPATH=$site:$PYTHONPATH
fi

share() { # of the time: what is left is dealt anew before each stage
  case $1 in parity) echo 8 ;; speed) echo 25 ;; teacher) echo 42 ;; colabator) echo 25 ;; *) echo 0 ;; esac
}

waiting=($stages)
for stage in $stages; do
  sum=0
  for one in "${waiting[@]}"; do sum=$((sum + $(share "$one"))); done
  waiting=("${waiting[@]:1}")
  mine=$(share "$stage") left=$((until - SECONDS))
  [ "$mine" -gt 0 ] || { echo "error: there is no stage $stage" | tee -a "$log" >&2; failed=$((failed + 1)); continue; }
  budget=$((left * mine / sum))
  [ "$budget" -gt 0 ] || { echo "$stage: no time is left" | tee -a "$log"; failed=$((failed + 1)); continue; }
  what=(benchmarks.gpu."$stage")
  case $stage in teacher | colabator) what=(benchmarks.gpu.training --stage "$stage") ;; esac
  # Starting is part of it. What does not end by itself is ended.
  timeout --kill-after 5 $((budget + 15)) "$python" -m "${what[@]}" --data "$data" --out "$out" --work "$work" \
    --device "$device" --began "$(date +%s)" --seconds $((budget > 20 ? budget - 8 : budget)) ${more[@]+"${more[@]}"} 2>&1 | tee -a "$log"
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || { echo "$stage: failed with $code" | tee -a "$log"; failed=$((failed + 1)); }
done
echo "$failed of $(wc -w <<< "$stages") stages failed; results are in $out" | tee -a "$log"
exit "$failed"
