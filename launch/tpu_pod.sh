#!/bin/bash
# A Google Cloud TPU pod from the queue to its end: create, wait, setup, run, delete.
#
#     launch/tpu_pod.sh --name=pod --zone=us-west4-a --type=v5litepod-256 [--dry-run] create
#     launch/tpu_pod.sh --name=pod --zone=us-west4-a wait
#     launch/tpu_pod.sh --name=pod --zone=us-west4-a setup
#     launch/tpu_pod.sh --name=pod --zone=us-west4-a run -- python train.py --config=... --workdir=...
#     launch/tpu_pod.sh --name=pod --zone=us-west4-a delete
#
# More options: --project=ID, --version=RUNTIME (default: the one for the type), --spot. `setup`
# copies the last commit to all workers and installs it; `run` starts the same command on each, where
# JAX finds the others by itself. The workdir must be storage that all workers share. A run that ends
# with 75 was preempted after a save: the same `run` goes on. --dry-run prints the exact commands.
set -euo pipefail

readonly code=cnn-arch # folder on the workers
name='' zone='' type='' version='' project='' spot='' dry_run='' action=''

fail() {
  echo "error: $1" >&2
  exit 2
}

# Runs a command, or prints it as a shell takes it.
execute() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# docs.cloud.google.com/tpu/docs/runtimes: the runtime that JAX wants on each chip.
runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type=$1: give its runtime with --version=RUNTIME" ;;
  esac
}

create() {
  [[ $type ]] || fail '--type is missing, e.g. --type=v5litepod-256'
  local runtime=$version
  [[ $runtime ]] || runtime=$(runtime_of "$type")
  execute gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
    --accelerator-type="$type" --runtime-version="$runtime" ${spot:+--spot}
}

await() {
  local state='' describe=(gcloud compute tpus queued-resources describe "$name" "${where[@]}"
    --format='value(state.state)')
  if [[ $dry_run ]]; then
    execute "${describe[@]}"
    return
  fi
  until [[ $state == ACTIVE ]]; do
    state=$("${describe[@]}")
    echo "$name: $state"
    case $state in
      FAILED | SUSPENDED | SUSPENDING) exit 1 ;;
      ACTIVE) ;;
      *) sleep 30 ;;
    esac
  done
}

# Runs one shell line on every worker at once.
on_all() {
  execute gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

# The workers' own Python is too old; uv brings one of its own.
setup() {
  local root archive=/tmp/$code.tar.gz jax
  root=$(dirname "${BASH_SOURCE[0]}")/..
  jax=$(sed -n 's/^jax==//p' "$root/requirements.txt")
  execute git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  execute gcloud compute tpus tpu-vm scp "$archive" "$name:$archive" "${where[@]}" --worker=all
  on_all "set -e; mkdir -p $code; tar -xzf $archive -C $code; cd $code; \
python3 -m pip install --quiet --user uv; PATH=~/.local/bin:\$PATH; uv venv --quiet --python 3.11; \
uv pip install --quiet -r requirements.txt 'jax[tpu]==$jax'"
}

run() {
  (($#)) || fail 'no command: write it after --, as in run -- python train.py ...'
  on_all "cd $code && PATH=\$PWD/.venv/bin:\$PATH exec $(printf '%q ' "$@")"
}

delete() {
  execute gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=yes ;;
    --dry-run) dry_run=yes ;;
    create | wait | setup | run | delete) action=$1 ;;
    --)
      shift
      break
      ;;
    *) fail "$1: no such option or action; the head of launch/tpu_pod.sh lists them" ;;
  esac
  shift
done
[[ $name ]] || fail '--name is missing'
[[ $zone ]] || fail '--zone is missing, e.g. --zone=us-west4-a'
where=(--zone="$zone" ${project:+--project="$project"})
case $action in
  wait) await ;;
  create | setup | run | delete) "$action" "$@" ;;
  *) fail 'say what to do: create, wait, setup, run or delete' ;;
esac
