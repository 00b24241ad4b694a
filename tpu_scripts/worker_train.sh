#!/usr/bin/env bash
# Runs on a worker, inside tmux: one process of the training job. train.sh calls it.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
exec >>"$HOME/t5x_mini.log" 2>&1
echo "--- $(date -u +%FT%TZ) t5x-mini train $*"
# A task's module may lie in the checkout.
PYTHONPATH=. .venv/bin/t5x-mini train "$@"
echo "--- $(date -u +%FT%TZ) ended with status $?"
