#!/usr/bin/env bash
# Says whether a slice is up, what each of its workers does, and what the run printed last.
#
#     tpu_scripts/status.sh --name=t5 --zone=us-central2-b
#
#   --direct            the slice is a plain TPU VM
#   --project=, --dry-run
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_options "$OF_SLICE" "$@"
if [[ $dry_run ]]; then
  tpus describe "$name" "${PLACE[@]}"
  on_all "tmux has-session -t $SESSION"
  exit
fi
state=$(state)
say "$name: $state"
[[ $state == ACTIVE || $state == READY ]] || exit 0
workers | sort | uniq -c | while read -r count doing; do say "$count worker(s) $doing"; done
on_worker 0 "test ! -e $REMOTE_LOG || tail -n 3 $REMOTE_LOG"
