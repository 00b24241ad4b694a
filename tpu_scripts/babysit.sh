#!/usr/bin/env bash
# Takes a run to its end: creates the slice, sets it up, trains, and does so again whenever the slice is preempted.
#
#     tpu_scripts/babysit.sh --name=t5 --zone=us-central2-b --type=v4-32 --spot -- --gin_file=gin/runs/pretrain.gin \
#         --gin_file=gin/hardware/v4-32.gin --tfds_data_dir=gs://my-bucket/tfds --gin.MODEL_DIR=gs://my-bucket/t5
#
# It may be ended and started again at any time: it looks at what there is and goes on from there. The run is over when
# MODEL_DIR holds complete.json, and never because a process ended. The slice is deleted then.
#
#   create.sh's options, setup.sh's --files= and
#   --keep              leave the slice when the run is complete, or given up
#   --poll=60           seconds between two looks; what fails is tried again after twice as long each time
#   --max-failures=5    give up when training ended as often, each time within an hour, on a slice that was up
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LONGEST_WAIT=1800  # seconds
LONG_ENOUGH=3600   # seconds of training after which an end is not blamed on those before

# Calls another of these scripts for the same slice.
script() {
  local file=$1
  shift
  "$SCRIPTS/$file" "--name=$name" "${PLACE[@]}" ${direct:+--direct} ${dry_run:+--dry-run} "$@"
}

model_dir() {
  local word found=''
  for word in "${ARGUMENTS[@]}"; do
    if [[ $word == --gin.MODEL_DIR=* ]]; then found=${word#*=}; fi
  done
  found=${found//[\"\']/}
  say "${found%/}"
}

# The completion marker's text; fails while there is none.
marker() {
  if [[ $folder == gs://* ]]; then
    run gcloud storage cat "$folder/complete.json" ${project:+"--project=$project"} 2>/dev/null
  else
    on_worker 0 "cat $(printf %q "$folder")/complete.json" 2>/dev/null
  fi
}

# Waits twice as long the next time.
back_off() {
  local wait=$((poll * 2 ** (setbacks < 10 ? setbacks : 10)))
  if ((wait > LONGEST_WAIT)); then wait=$LONGEST_WAIT; fi
  setbacks=$((setbacks + 1))
  note "$1; next try in $wait s"
  nap "$wait"
}

# A sleep that a signal ends.
nap() { sleep "$1" & wait $!; }

note() { say "$(date -u +%FT%TZ) $*"; }

create() {
  script create.sh --yes "--type=$type" "--slices=$slices" ${spot:+--spot} ${reserved:+--reserved} \
    ${runtime:+"--runtime=$runtime"} ${price:+"--price=$price"} ${network:+"--network=$network"} \
    ${subnetwork:+"--subnetwork=$subnetwork"} ${service_account:+"--service-account=$service_account"}
}

setup() { script setup.sh ${files:+"--files=$files"}; }

train() { script train.sh --restart -- "${ARGUMENTS[@]}"; }

delete() { if [[ ! $keep ]]; then script delete.sh --yes; fi; }

# One look at a slice that is up: starts what does not run.
tend() {
  local doing
  doing=$(workers)
  case $doing in
    '') back_off "no worker answers" ;;
    *bare*)
      note "setting up"
      setup || back_off "the set-up failed"
      ;;
    *stopped*)
      if marker >/dev/null; then return; fi  # it came since the last look
      if [[ $started ]]; then count_failure; fi
      if train; then
        note "training"
        started=$SECONDS
      else
        back_off "training did not start"
      fi
      ;;
    *)
      if [[ ! $started ]]; then started=$SECONDS; fi
      if ((SECONDS - started > LONG_ENOUGH)); then failures=0 setbacks=0; fi
      nap "$poll"
      ;;
  esac
}

# Training ended on a slice that is up, and the run is not complete.
count_failure() {
  failures=$((failures + 1))
  script logs.sh --worker=all --lines=20 || true
  if ((failures >= max_failures)); then
    delete
    fail "training ended $failures times and the run is not complete; what it said last is above"
  fi
  started=''
  back_off "training ended before the run was complete ($failures of $max_failures)"
}

parse_options "$OF_SLICE $OF_CREATION files= keep poll= max-failures=" "$@"
look_up_type
folder=$(model_dir)
[[ $folder ]] || fail "where does the run go? Write --gin.MODEL_DIR=gs://my-bucket/t5 after --"
if [[ $dry_run ]]; then
  create
  setup
  train
  marker
  delete
  exit
fi
cost
[[ $folder == gs://* ]] || note "warning: $folder is lost with the slice unless it lies elsewhere: gs://my-bucket/t5 is safe"
agree "Create it, as often as it takes?"

trap 'note "$name is left as it is, and paid for while it is up: tpu_scripts/delete.sh ends that"; exit 130' INT TERM
started='' # second at which training was seen to start on this slice
failures=0 # times that training ended on a slice that was up
setbacks=0 # times in a row that something failed
while true; do
  state=$(state)
  if [[ $folder == gs://* || $state == ACTIVE || $state == READY ]] && text=$(marker); then
    break
  fi
  case $state in
    ABSENT)
      started=''
      create || back_off "$name was not created"
      ;;
    ACTIVE | READY) tend ;;
    FAILED | SUSPENDING | SUSPENDED | PREEMPTED | TERMINATED | STOPPED)
      note "$name is $state: deleting it"
      started=''
      script delete.sh --yes || true  # it is as it was then, and deleted at the next look
      back_off "$name was $state"
      ;;
    *)
      note "$name is $state"
      nap "$poll"
      ;;
  esac
done
note "the run is complete: $text (to train on, remove $folder/complete.json)"
if [[ $state != ABSENT ]]; then delete; fi
