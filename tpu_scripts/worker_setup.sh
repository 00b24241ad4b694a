#!/usr/bin/env bash
# Runs on a worker: installs the checkout that it lies in. setup.sh calls it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$HOME/.local/bin:$PATH

rm -f installed
if ! command -v tmux >/dev/null; then
  # A fresh machine is busy installing its updates.
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq install --yes tmux
fi
# The machines come with Python 3.10, and JAX wants 3.11: uv, from PyPI, brings one.
command -v uv >/dev/null || python3 -m pip install --quiet --user uv==0.13.9
uv venv --quiet --clear --python=3.11 .venv
uv pip install --quiet --python=.venv/bin/python -c constraints.txt '.[tpu]'
touch installed
echo "installed on $(hostname)"
