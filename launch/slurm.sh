#!/bin/bash
# Submits a command to Slurm, and starts it again when it was preempted.
#
#     launch/slurm.sh [--dry-run] [SBATCH OPTIONS] -- python train.py --config=... --workdir=...
#     launch/slurm.sh --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 -- python train.py ...
#
# One task per GPU: JAX finds the other tasks, and its own GPU, by Slurm's variables. Slurm warns the
# tasks with SIGTERM two minutes before the time limit; they save and end with exit code 75, and the
# job goes back to the queue. --dry-run prints the command.
set -euo pipefail

readonly preempted=75
readonly options=(--requeue --open-mode=append --signal=TERM@120 --job-name=cnn-arch)

submit() {
  local dry_run='' sbatch=(sbatch "${options[@]}")
  while (($#)) && [[ $1 != -- ]]; do
    if [[ $1 == --dry-run ]]; then dry_run=yes; else sbatch+=("$1"); fi
    shift
  done
  shift || true # the --
  if ((!$#)); then
    echo 'error: no command: write it after --, as in -- python train.py ...' >&2
    exit 2
  fi
  sbatch+=("$(realpath "${BASH_SOURCE[0]}")" "$@")
  if [[ $dry_run ]]; then
    printf '%q ' "${sbatch[@]}"
    echo
  else
    exec "${sbatch[@]}"
  fi
}

# Inside the job: Slurm runs this file once, on the first node.
run() {
  trap '' TERM # the tasks have it too; this shell waits for them
  local code=0
  srun --kill-on-bad-exit=1 --wait=60 "$@" || code=$?
  if ((code == preempted)); then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}

if [[ ${SLURM_JOB_ID:-} && ${SLURM_SUBMIT_DIR:-} && $# -gt 0 && $1 != -* ]]; then
  run "$@"
else
  submit "$@"
fi
