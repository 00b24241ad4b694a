#!/usr/bin/env bash
# Deletes a slice, and with it all that is on its disks. Nothing is paid for it from then on.
#
#     tpu_scripts/delete.sh --name=t5 --zone=us-central2-b
#
#   --yes               ask nothing
#   --direct            the slice is a plain TPU VM
#   --project=, --dry-run
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_options "$OF_SLICE yes" "$@"
agree "Delete $name in $zone?"
flags=(--force)  # or else a queued resource that is up stays
if [[ $direct ]]; then flags=(); fi
tpus delete "$name" "${PLACE[@]}" "${flags[@]}" --quiet
