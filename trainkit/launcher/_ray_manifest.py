"""A run as a RayJob of KubeRay, and a cluster for it as `ray up` takes it: dicts that become YAML."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trainkit.launcher import _ray_jobs

IMAGE, CLAIM, SHARED, MEMORY = "trainkit:latest", "shared", "/shared", 8
HEADS = {
    "rayjob": "# kubectl apply -f FILE. The image has Ray and trainkit; the claim is a disk that all pods share.\n",
    "cluster": "# ray up FILE, then trainkit ray submit. The machines share a disk; the image has Ray and trainkit.\n",
}
OF_A_POD = 1.5
"""Ray keeps a part of a pod's memory for its object store and for itself."""
RETRIES = 3
"""A job that failed starts again in a new cluster, and goes on from its checkpoint."""


def job(config: Mapping[str, Any], words: Sequence[str], wanted: Mapping[str, Any], image: str) -> dict[str, Any]:
    """The RayJob: the run is its command, and its workers are the pods."""
    least, most = wanted["workers"]
    workers = {"groupName": "workers", "replicas": most, "minReplicas": least, "maxReplicas": most}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": str(config["name"]).replace("_", "-")},
        "spec": {
            "entrypoint": _ray_jobs.entrypoint(words, str(config["run"]["dir"])),
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": _pod("head", image, {"CPU": 2}),
                },
                "workerGroupSpecs": [
                    {**workers, "rayStartParams": {}, "template": _pod("worker", image, wanted["resources"])}
                ],
            },
        },
    }


def _pod(name: str, image: str, resources: Mapping[str, float]) -> dict[str, Any]:
    gib = math.ceil(resources.get("memory", 0) * OF_A_POD / 2**30) or MEMORY
    limits: dict[str, Any] = {"cpu": str(int(resources["CPU"])), "memory": f"{gib}Gi"}
    if resources.get("GPU"):
        limits["nvidia.com/gpu"] = int(resources["GPU"])
    container = {
        "name": f"ray-{name}",
        "image": image,
        "resources": {"requests": limits.copy(), "limits": limits.copy()},
        "volumeMounts": [{"name": "shared", "mountPath": SHARED}],
    }
    return {
        "spec": {
            "containers": [container],
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": CLAIM}}],
        }
    }


def cluster(config: Mapping[str, Any], words: Sequence[str], wanted: Mapping[str, Any], image: str) -> dict[str, Any]:
    """A cluster of machines that are there, with a worker each."""
    least, most = wanted["workers"]
    resources = {name: need for name, need in wanted["resources"].items() if name != "memory"}
    custom = {name: need for name, need in resources.items() if name not in ("CPU", "GPU")}
    flags = f"--num-cpus={int(resources['CPU'])} --num-gpus={int(resources.get('GPU', 0))}"
    flags += f" --resources={shlex.quote(json.dumps(custom))}" if custom else ""
    return {
        "cluster_name": str(config["name"]),
        "min_workers": least,
        "max_workers": most,
        "provider": {
            "type": "local",
            "head_ip": "HEAD",
            "worker_ips": [f"WORKER{number}" for number in range(1, most + 1)],
        },
        "auth": {"ssh_user": "USER"},
        "docker": {"image": image, "container_name": "trainkit", "run_options": [f"-v {SHARED}:{SHARED}"]},
        "head_start_ray_commands": [
            "ray stop",
            "ray start --head --port=6379 --num-cpus=0 --dashboard-host=0.0.0.0 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"ray start --address=$RAY_HEAD_IP:6379 {flags}"],
    }
