#!/usr/bin/env bash
# Starts `t5x-mini train` on all workers of a slice, in tmux, where it outlives the connection.
#
#     tpu_scripts/train.sh --name=t5 --zone=us-central2-b -- --gin_file=gin/runs/pretrain.gin \
#         --gin_file=gin/hardware/v4-32.gin --tfds_data_dir=gs://my-bucket/tfds --gin.MODEL_DIR=gs://my-bucket/t5
#
# What follows -- is for t5x-mini; its folder is the checkout on the worker. The same command resumes a run.
#
#   --restart           end what is running first
#   --direct            the slice is a plain TPU VM
#   --project=, --dry-run
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_options "$OF_SLICE restart" "$@"
((${#ARGUMENTS[@]})) || fail "train what? Write -- --gin_file=gin/runs/pretrain.gin --gin.MODEL_DIR=gs://my-bucket/t5"
train="bash t5x_mini/tpu_scripts/worker_train.sh$(printf ' %q' "${ARGUMENTS[@]}")"
if [[ $restart ]]; then
  # Not kill-session: a server that lost its last session is on its way out, and a new session can miss it.
  running="tmux respawn-window -k -t $SESSION $train"
else
  running="echo 'it runs already: --restart' >&2; exit 1"
fi
on_all "if tmux has-session -t $SESSION 2>/dev/null; then $running; else tmux new-session -d -s $SESSION $train; fi"
