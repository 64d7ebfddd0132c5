#!/usr/bin/env bash
# Everything that only a GPU can show, in under nine minutes: scripts/gpu_run.sh FOLDER [--emulate]
#
# Six files land in FOLDER, each written whole after every case: ceilings.json, attention.json, step.json,
# correctness.json, flush.json, counters.json. A part that fails or runs out of time leaves what it has; the others
# still run, the most telling first. With --emulate the same commands run on the interpreter, on shapes it can manage;
# its records say so.
set -uo pipefail
folder=${1:?give a folder for the records}
emulate=${2:-}
mkdir -p "$folder"
folder=$(realpath "$folder")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
kvperf=("$python" -m kvperf)
deadline=520 # seconds for all parts
failed=0

# part SECONDS NAME COMMAND…: run it within its time and what is left of the whole, and say how it ended.
part() {
  local limit=$1 name=$2 start=$SECONDS left=$((deadline - SECONDS)) code
  shift 2
  [ "$left" -ge 10 ] || { echo "-- $name: no time left" && failed=1 && return; }
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name"
  timeout --signal=INT --kill-after=8 "$limit" "$@"
  code=$?
  [ "$code" -eq 0 ] || failed=1
  echo "-- $name: exit $code after $((SECONDS - start)) s"
}

if [ "$emulate" = --emulate ]; then
  part 120 ceilings "${kvperf[@]}" bench ceilings --emulate --record "$folder/ceilings.json"
  part 120 attention "${kvperf[@]}" bench attention --emulate --record "$folder/attention.json"
  part 60 step "${kvperf[@]}" bench step --emulate --model tests/data/bench/tiny.yaml --seq 33 --batch 2 \
    --record "$folder/step.json"
  part 120 correctness "${kvperf[@]}" bench attention --emulate --dtype fp16 --head-dim 64,128 --heads 4 --kv-heads 1 \
    --seq 1,77 --record "$folder/correctness.json"
  part 60 flush "$python" scripts/flush.py "$folder/flush.json" --emulate
  part 60 counters "$python" scripts/counters.py "$folder/counters.json" --emulate
  exit "$failed"
fi

part 30 doctor "${kvperf[@]}" doctor

# Each kernel once in a process of its own: one that hangs or faults must not take the others along.
echo "== smoke"
names=$("${kvperf[@]}" kernel list --format json | "$python" -c 'import json, sys; print(*(k["kernel"] for k in json.load(sys.stdin)["kernels"]))')
sound=$(mktemp -d)
for name in $names; do
  shape=(--batch 2 --heads 8 --kv-heads 2 --seq 77)
  [ "$name" != mla ] || shape=(--batch 2 --heads 16 --kv-heads 1 --head-dim 576 --seq 77)
  (timeout --kill-after=2 30 "${kvperf[@]}" bench attention --check-only --kernel "$name" "${shape[@]}" \
    --record "$sound/$name.json" > "$sound/$name.log" 2>&1 && touch "$sound/$name.right") &
  [ "$(jobs -rp | wc -l)" -lt 5 ] || wait -n
done
wait
kernels=()
for name in $names; do
  if [ -e "$sound/$name.right" ]; then
    [ "$name" = mla ] || kernels+=(--kernel "$name")
  else
    failed=1
    echo "-- smoke: $name failed" && tail -3 "$sound/$name.log"
  fi
done
echo "-- smoke: ${#kernels[@]} arguments after $SECONDS s"

part 70 ceilings "${kvperf[@]}" bench ceilings --budget 36 --record "$folder/ceilings.json"
# The largest shape first: nothing else says as much about bandwidth.
part 190 attention "${kvperf[@]}" bench attention --batch 64,1,16 --seq 16384,1024,4096 --budget 7 --against torch \
  "${kernels[@]}" \
  --ceilings "$folder/ceilings.json" --record "$folder/attention.json"
part 90 step "${kvperf[@]}" bench step --model llama-3.1-8b --batch 4 --seq 4096 --budget 16 \
  --ceilings "$folder/ceilings.json" --record "$folder/step.json"
part 80 correctness "${kvperf[@]}" bench attention --check-only --dtype fp16 --head-dim 64,128,256 --heads 8 \
  --kv-heads 1,4 --seq 1,77,1000 --batch 2 --record "$folder/correctness.json"
part 55 flush "$python" scripts/flush.py "$folder/flush.json"
part 60 counters "$python" scripts/counters.py "$folder/counters.json"
exit "$failed"
