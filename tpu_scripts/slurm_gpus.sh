#!/usr/bin/env bash
#SBATCH --job-name=t5
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#SBATCH --output=t5-%j.log
# Trains on GPUs under SLURM, one process a GPU, and queues the job again until the run is complete: after a
# preemption, a node that failed, or the end of --time. From the checkout's root, in a folder that all nodes see:
#
#     sbatch tpu_scripts/slurm_gpus.sh --gin_file=gin/quickstart.gin --gin_file=gin/hardware/eight_gpus.gin \
#         --gin.MODEL_DIR=/shared/t5
#
# t5x-mini lies in .venv there (pip install -c constraints.txt '.[cuda]'), and saves when SLURM sends SIGTERM, which it
# does five minutes before the time is over. Options: https://slurm.schedmd.com/sbatch.html.
set -u

MOST_RESTARTS=100
SHORTEST=60  # seconds; what ends sooner has not been preempted, it fails

folder=''
for word in "$@"; do
  if [[ $word == --gin.MODEL_DIR=* ]]; then folder=${word#*=}; fi
done
folder=${folder//[\"\']/}
if [[ $folder != /* ]]; then
  echo "write --gin.MODEL_DIR=/shared/my_run, a whole path that all nodes see" >&2
  exit 1
fi

srun --kill-on-bad-exit=1 .venv/bin/t5x-mini train "$@"
status=$?
if [[ -e $folder/complete.json ]]; then
  echo "the run is complete: $(cat "$folder/complete.json")"
elif ((${SLURM_RESTART_COUNT:-0} >= MOST_RESTARTS)); then
  echo "the run is not complete after $MOST_RESTARTS restarts" >&2
  exit 1
elif ((SECONDS < SHORTEST)); then
  echo "srun ended with status $status within $SHORTEST s; what it said is above, and the job is not queued again" >&2
  exit 1
else
  echo "srun ended with status $status and the run is not complete: queueing the job again" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
