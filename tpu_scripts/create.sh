#!/usr/bin/env bash
# Asks Google Cloud for one or several TPU slices, after saying what they cost.
#
#     tpu_scripts/create.sh --name=t5 --zone=us-central2-b --type=v4-32 --spot
#     tpu_scripts/create.sh --name=t5 --zone=us-west4-b --type=v5litepod-256 --slices=2 --reserved
#
#   --name= --zone=     what to call it, and where; the other scripts take the same two
#   --type=             gcloud's accelerator type: v4-N, v5litepod-N (v5e), v5p-N, v6e-N
#   --slices=1          as many slices, one training job over the data centre's network
#   --spot, --reserved  spot capacity (cheaper, may be taken away), or your reservation
#   --direct            a plain TPU VM, now or not at all; otherwise a queued resource, which waits for capacity
#   --price=            dollars a chip-hour, where yours is not the list price
#   --project= --runtime= --network= --subnetwork= --service-account=
#   --yes, --dry-run    ask nothing; print the commands and run none
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_options "$OF_SLICE $OF_CREATION" "$@"
look_up_type
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices=$slices: write a number from 1"
[[ ! ($spot && $reserved) ]] || fail "a slice is --spot or --reserved, not both"
[[ ! ($direct && $slices != 1) ]] || fail "several slices come as a queued resource: leave out --direct"
cost
agree "Create it?"

flags=("--accelerator-type=$type" ${spot:+--spot} ${reserved:+--reserved} ${network:+"--network=$network"}
  ${subnetwork:+"--subnetwork=$subnetwork"} ${service_account:+"--service-account=$service_account"})
if [[ $direct ]]; then
  flags+=("--version=$RUNTIME")
elif ((slices > 1)); then
  flags+=("--runtime-version=$RUNTIME" "--node-count=$slices" "--node-prefix=$name")
else
  flags+=("--runtime-version=$RUNTIME" "--node-id=$name")
fi
tpus create "$name" "${PLACE[@]}" "${flags[@]}" --quiet
