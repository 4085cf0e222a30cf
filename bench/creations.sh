#!/usr/bin/env bash
# Starts one process for each GPU and lets them meet in each of the ways of arbiter.h for launched processes, as torchrun
# would start them.
#   bench/creations.sh [RANKS]      all GPUs by default; without a GPU, one rank and the launcher's variables only
# CREATIONS names the program (build/bench/creations).
set -uo pipefail
program=${CREATIONS:-$(dirname "${BASH_SOURCE[0]}")/../build/bench/creations}
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l)
ranks=${1:-$gpus}
ways=(environment unique_id nccl)
if ((ranks < 1)); then ranks=1; fi
if ((gpus < 1)); then ways=(environment); fi
if ((gpus > 0 && gpus < ranks)); then
  printf '%s ranks need as many GPUs; this machine has %s\n' "$ranks" "$gpus" >&2
  exit 2
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for way in "${ways[@]}"; do
  # A port for each way: the one before may still be in TIME_WAIT.
  port=$((20000 + RANDOM % 20000))
  workers=()
  for ((rank = 0; rank < ranks; ++rank)); do
    arguments=("$way")
    if [[ $way != environment ]]; then arguments+=("$folder/$way"); fi
    RANK=$rank WORLD_SIZE=$ranks LOCAL_RANK=$rank LOCAL_WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
      timeout 240 "$program" "${arguments[@]}" &
    workers+=($!)
  done
  bad=0
  for worker in "${workers[@]}"; do wait "$worker" || bad=1; done
  if ((bad)); then failed=1; fi
  printf '%s with %s ranks: %s\n' "$way" "$ranks" "$( ((bad)) && printf FAILED || printf passed)"
done
exit $failed
