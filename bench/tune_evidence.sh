#!/usr/bin/env bash
# What a tune is worth on this machine: two tunes, the first with an empty kernel cache, what they decide differently, both
# orders of merging them, the result beside NCCL, and the conformance cases.
#   bench/tune_evidence.sh FOLDER WORLDS [OPTIONS OF arbiter tune AND bench]
#   bench/tune_evidence.sh evidence 2,3,4 --gpus 0-3 --hidden 8192
# Writes a JSON file for each step, what it said (*.log), the databases and summary.json into FOLDER, which must not exist.
# A step that fails or takes too long does not keep the others from being taken. ARBITER names the program, LIMIT the
# seconds that a step may take (600), VERIFY the options of arbiter verify (--full), VERIFY= leaves it out.
# Exit status: 0 if every step passed and both orders of merging decide the same.
set -uo pipefail
if (($# < 2)); then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
folder=$1 worlds=$2
shift 2
program=$(realpath "${ARBITER:-$(dirname "${BASH_SOURCE[0]}")/../build/bin/arbiter}") || exit 2
limit=${LIMIT:-600}
mkdir "$folder" || exit 2
cd "$folder" || exit 2
export ARBITER_CACHE_DIR=$PWD/kernels
unset ARBITER_DB

# verify knows devices, but no problems.
device=()
for ((i = 1; i <= $#; ++i)); do
  case ${!i} in
    --gpus | --device) next=$((i + 1)) && device+=("${!i}" "${!next}") ;;
    --gpus=* | --device=* | --in-process) device+=("${!i}") ;;
  esac
done

failed=0
steps=()
step() {  # NAME COMMAND...: standard output is NAME.json
  local name=$1 begin end code=0
  shift
  begin=$(date +%s%N)
  timeout --signal=INT --kill-after=30 "$limit" "$program" "$@" >"$name.json" 2>"$name.log" || code=$?
  end=$(date +%s%N)
  if ((code)); then failed=1; fi
  steps+=("{\"step\": \"$name\", \"exit\": $code, \"seconds\": $(((end - begin) / 1000000000)).$(printf %03d $(((end - begin) / 1000000 % 1000)))}")
  printf '%-14s exit %s, %s s\n' "$name" "$code" $(((end - begin) / 1000000000))
}

step tune-first tune --json --db first.db --world "$worlds" "$@"
step tune-second tune --json --db second.db --world "$worlds" "$@"
step diff diff --json first.db second.db
step merge-12 merge --json --db merged-12.db first.db second.db
step merge-21 merge --json --db merged-21.db second.db first.db
step show-12 show --json --db merged-12.db
step show-21 show --json --db merged-21.db
if cmp -s show-12.json show-21.json && [[ -s show-12.json ]]; then order=true; else order=false failed=1; fi
step bench bench --json --record --db merged-12.db --world "$worlds" "$@"
step snapshot snapshot --json --db merged-12.db decisions.db
step defaults export --db decisions.db  # JSON lines, as db/defaults has them
if [[ -n ${VERIFY=--full} ]]; then
  # shellcheck disable=SC2086  # several options
  step verify verify --json --record --world "$worlds" "${device[@]}" $VERIFY
fi

{
  printf '{"worlds": "%s", "merged_in_either_order_alike": %s, "steps": [\n' "$worlds" "$order"
  for ((i = 0; i < ${#steps[@]}; ++i)); do
    printf '  %s%s\n' "${steps[i]}" "$( ((i + 1 < ${#steps[@]})) && printf ,)"
  done
  printf ']}\n'
} >summary.json
printf 'merged in either order, the decisions are %s\n' "$([[ $order == true ]] && echo the same || echo DIFFERENT)"
exit $failed
