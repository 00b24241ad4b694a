#!/usr/bin/env bash
# Copies this checkout to every worker of a slice, and installs it there with the versions of constraints.txt.
#
#     tpu_scripts/setup.sh --name=t5 --zone=us-central2-b
#     tpu_scripts/setup.sh --name=t5 --zone=us-central2-b --files="my_tasks.py my_gin"
#
#   --files=            files and folders of the checkout to take along besides the project's own
#   --direct            the slice is a plain TPU VM
#   --project=, --dry-run
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_options "$OF_SLICE files=" "$@"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/t5x_mini.tar.gz
read -r -a extra <<<"$files"
run tar -czf "$archive" --exclude=__pycache__ -C "$SCRIPTS/.." \
  README.md LICENSE setup.py pyproject.toml constraints.txt data gin t5x_mini tpu_scripts "${extra[@]}"
tpus scp "$archive" "$name:" "${PLACE[@]}" "${EVERYWHERE[@]}" "${ALIVE[@]/ssh/scp}" --quiet
on_all "mkdir -p t5x_mini && tar -xzf t5x_mini.tar.gz -C t5x_mini && bash t5x_mini/tpu_scripts/worker_setup.sh"
