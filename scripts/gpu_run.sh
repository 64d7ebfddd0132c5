#!/usr/bin/env bash
# Everything that only a GPU can show, in under nine minutes: scripts/gpu_run.sh FOLDER [--emulate]
#
# Six files land in FOLDER, each written whole after every case: correctness.json, ceilings.json, attention.json,
# flush.json, step.json, counters.csv. A part that fails or runs out of time leaves what it has; the others still run.
# With --emulate the same commands run on the interpreter, on shapes it can manage; its records say so.
set -uo pipefail
folder=${1:?give a folder for the records}
emulate=${2:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$folder"
kvperf=("${PYTHON:-python3}" -m kvperf)
failed=0

# part SECONDS NAME COMMAND…: run it within its time, and say how it ended.
part() {
  local limit=$1 name=$2 start=$SECONDS
  shift 2
  echo "== $name"
  timeout --signal=INT --kill-after=20 "$limit" "$@"
  local code=$?
  [ "$code" -eq 0 ] || failed=1
  echo "-- $name: exit $code after $((SECONDS - start)) s"
}

if [ "$emulate" = --emulate ]; then
  part 120 correctness "${kvperf[@]}" bench attention --emulate --dtype fp16 --head-dim 64,128 --heads 4 --kv-heads 1 \
    --seq 1,77 --record "$folder/correctness.json"
  part 120 ceilings "${kvperf[@]}" bench ceilings --emulate --record "$folder/ceilings.json"
  part 120 attention "${kvperf[@]}" bench attention --emulate --record "$folder/attention.json"
  part 60 flush "${kvperf[@]}" bench attention --emulate --kernel vector_loads --flush memset-read \
    --record "$folder/flush.json"
  part 60 step "${kvperf[@]}" bench step --emulate --model tests/data/bench/tiny.yaml --seq 33 --batch 2 \
    --record "$folder/step.json"
  exit "$failed"
fi

"${kvperf[@]}" doctor
part 60 correctness "${kvperf[@]}" bench attention --dtype fp16 --head-dim 64,128,256 --heads 8 --kv-heads 1,4 --seq 1,77,1000 \
  --batch 2 --budget 0 --record "$folder/correctness.json"
part 80 ceilings "${kvperf[@]}" bench ceilings --budget 45 --record "$folder/ceilings.json"
part 190 attention "${kvperf[@]}" bench attention --batch 1,16,64 --seq 1024,4096,16384 --budget 12 --against torch \
  --record "$folder/attention.json"
part 40 step "${kvperf[@]}" bench step --model llama-3.1-8b --batch 4 --seq 4096 --budget 16 --record "$folder/step.json"

# The three ways to a cold L2, on one kernel and shape, in one record.
part 50 flush "${PYTHON:-python3}" scripts/flush.py "$folder/flush.json"

# Hardware counters of three shapes, where they can be read: bytes of DRAM and of L2 for each launch.
if command -v ncu > /dev/null; then
  : > "$folder/counters.csv"
  for shape in "1 4096" "16 4096" "4 16384"; do
    read -r batch seq <<< "$shape"
    part 30 "counters of batch $batch, seq $seq" ncu --clock-control none --csv --target-processes all \
      --kernel-name 'regex:^(cached_attention|split_kv|vector_loads|tensor_cores|combine)$' --launch-count 8 \
      --metrics dram__bytes_read.sum,dram__bytes_write.sum,lts__t_sectors_op_read.sum,l1tex__data_bank_conflicts_pipe_lsu.sum,gpu__time_duration.sum \
      "${kvperf[@]}" bench attention --batch "$batch" --seq "$seq" --kernel split_kv --kernel vector_loads \
      --kernel tensor_cores --budget 0 --record /tmp/counted.json >> "$folder/counters.csv"
  done
fi
exit "$failed"
