"""The jobs of `tpu_scripts/` that others schedule: JobSet's manifest for GKE, and the batch script for SLURM."""

import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from t5x_mini import config
from t5x_mini.commands.parser import make_parser
from t5x_mini.parallel.mesh import mesh_shape

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tpu_scripts" / "slurm_gpus.sh"

# https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/ and, from `template` on,
# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/ and pod-v1/.
JOBSET_SPEC = "replicatedJobs network successPolicy failurePolicy startupPolicy suspend coordinator managedBy"
FAILURE_POLICY = "maxRestarts rules restartStrategy"
REPLICATED_JOB = "name template replicas groupName dependsOn"
JOB = "parallelism completions completionMode activeDeadlineSeconds backoffLimit podFailurePolicy template suspend"
POD = (
    "restartPolicy terminationGracePeriodSeconds hostNetwork dnsPolicy nodeSelector tolerations containers volumes "
    "serviceAccountName subdomain"
)
CONTAINER = "name image args command env ports resources volumeMounts workingDir securityContext"

# https://slurm.schedmd.com/sbatch.html
SBATCH = (
    "job-name nodes ntasks-per-node gpus-per-node cpus-per-task time requeue open-mode signal output error partition "
    "account mem exclusive"
)


def check_names(found, known):
    assert set(found) <= set(known.split())


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((ROOT / "tpu_scripts" / "gke_jobset.yaml").read_text())


def parts(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return job, pod, container


def test_the_manifest_has_only_fields_that_there_are(manifest):
    job, pod, container = parts(manifest)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check_names(manifest["spec"], JOBSET_SPEC)
    check_names(manifest["spec"]["failurePolicy"], FAILURE_POLICY)
    check_names(job, REPLICATED_JOB)
    check_names(job["template"]["spec"], JOB)
    check_names(pod, POD)
    check_names(container, CONTAINER)


def test_there_are_as_many_pods_as_machines_in_the_slice(manifest):
    job, pod, container = parts(manifest)
    sizes = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    machines = math.prod(sizes) / container["resources"]["limits"]["google.com/tpu"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == machines


def test_one_lost_pod_restarts_all(manifest):
    job, pod, _ = parts(manifest)
    assert job["template"]["spec"]["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_the_container_runs_what_the_command_line_takes(manifest):
    _, _, container = parts(manifest)
    words = [word for word in container["args"] if not word.startswith("--gin.")]
    options = make_parser()[0].parse_args(words)
    assert options.command == "train"
    assert all((ROOT / file).exists() for file in options.gin_file)


def test_the_image_takes_along_what_set_up_needs():
    docker = (ROOT / "tpu_scripts" / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    assert {"setup.py", "constraints.txt", "gin", "data", "t5x_mini"} <= copied
    assert '-c constraints.txt ".[$EXTRA]"' in docker


# SLURM, played by a `srun` that succeeds or not and a `scontrol` that writes down what it is asked.


@pytest.fixture
def slurm(tmp_path):
    def play(srun, seconds=3600, restarts=0, folder=None):
        for name, text in (("srun", srun), ("scontrol", f'echo "$@" > {tmp_path}/asked')):
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "17",
            "SLURM_RESTART_COUNT": str(restarts),
            "SECONDS": str(seconds),  # where bash's clock begins
        }
        words = ["--gin_file=a.gin", f"--gin.MODEL_DIR={folder or tmp_path}"]
        return subprocess.run(["bash", SCRIPT, *words], env=environment, capture_output=True, text=True)

    return play


def test_slurm_options_are_those_that_there_are():
    options = re.findall(r"^#SBATCH --([a-z-]+)", SCRIPT.read_text(), re.MULTILINE)
    check_names(options, SBATCH)
    assert {"requeue", "signal", "open-mode"} <= set(options)


def test_the_mesh_of_slurms_example_takes_all_its_gpus():
    text = SCRIPT.read_text()
    nodes, tasks = (int(re.search(rf"--{name}=(\d+)", text)[1]) for name in ("nodes", "ntasks-per-node"))
    files = re.findall(r"--gin_file=(\S+)", text)
    loaded = config.load(files, ["MODEL_DIR=none"])
    assert mesh_shape(loaded.partitioning, nodes * tasks) == (nodes, tasks, 1)


def test_slurm_queues_the_job_again_until_the_marker_is_there(slurm, tmp_path):
    ended = slurm(f'echo "$@" > {tmp_path}/ran; exit 0')
    assert ended.returncode == 0 and "the run is not complete: queueing the job again" in ended.stderr
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert "t5x-mini train --gin_file=a.gin --gin.MODEL_DIR=" in (tmp_path / "ran").read_text()
    (tmp_path / "asked").unlink()
    ended = slurm(f"echo '{{}}' > {tmp_path}/complete.json; exit 1")
    assert ended.returncode == 0 and "the run is complete: {}" in ended.stdout
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"seconds": 0}, "srun ended with status 1 within 60 s"),
        ({"restarts": 100}, "not complete after 100 restarts"),
        ({"folder": "runs/x"}, "write --gin.MODEL_DIR=/shared/my_run"),
    ],
    ids=["too soon", "too often", "not shared"],
)
def test_slurm_does_not_repeat_what_only_fails(slurm, tmp_path, case, words):
    ended = slurm("exit 1", **case)
    assert ended.returncode == 1 and words in ended.stderr
    assert not (tmp_path / "asked").exists()
