#!/usr/bin/env bash
# Prints what a run said on its workers.
#
#     tpu_scripts/logs.sh --name=t5 --zone=us-central2-b --follow
#
#   --worker=0          a number, or all
#   --lines=20          as many lines of each
#   --follow            go on as more comes
#   --direct            the slice is a plain TPU VM
#   --project=, --dry-run
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_options "$OF_SLICE worker= lines= follow" "$@"
show="tail -n $lines ${follow:+-F }$REMOTE_LOG"
if [[ $worker == all ]]; then
  on_all "$show"
else
  on_worker "$worker" "$show"
fi
