"""One example or more of every command, as it is typed after `python -m trainkit`. A test runs each of them in a folder
with two run folders, runs/a and runs/b."""

from __future__ import annotations

EXAMPLES = {
    "ls": {"ls strategy": "the strategies, and what each one is"},
    "validate": {"validate recipe=image_classification strategy=ddp launcher.ranks=2": "what would run"},
    "config": {"config recipe=image_classification": "every key that the run would have"},
    "verify": {"verify local ddp@2 recipe=image_classification recipe.dropout=0.0": "alone and on two ranks"},
    "profile": {"profile recipe=image_classification --steps 4": "where the time of four steps goes"},
    "env": {"env": "one block for a bug report"},
    "doctor": {"doctor runs": "can this machine train, with runs on this disk?"},
    "checkpoint": {
        "checkpoint inspect runs/a": "which steps are saved, and what they hold",
        "checkpoint verify runs/a": "read every file",
    },
    "audit": {"audit runs/a": "whether anything was lost, and where the time went"},
    "sweep": {"sweep recipe=image_classification train.seed=1,2 train.steps=2": "two runs, and the better of them"},
    "top": {"top runs/a": "where its ranks are"},
    "report": {
        "report runs/a": "writes runs/a/report.html",
        "report runs/a runs/b to=both.html": "both in the same charts, and what differs",
    },
    "runs": {
        "runs ls runs": "every run, with its step and loss",
        "runs show runs/a": "what it has learnt, and what happened to it",
        "runs compare runs/a runs/b": "results side by side",
        "runs rm runs/b --yes": "delete it",
    },
    "diff": {"diff runs/a runs/b": "why do these two not learn the same?"},
    "slurm": {"slurm render recipe=image_classification launcher=slurm run.dir=runs/c": "the batch script"},
    "ray": {"ray render rayjob recipe=image_classification run.dir=/shared/runs/c": "a manifest for KubeRay"},
    "jobs": {
        "jobs ls runs": "every run",
        "jobs status runs/a": "where it stands",
        "jobs stop runs/a": "save and leave",
    },
    "completion": {"completion bash": 'for ~/.bashrc: eval "$(trainkit completion bash)"'},
    "mlflow": {"mlflow sync runs/a": "send what the tracker has missed"},
    "promote": {
        "promote runs/a --to champion --if 'eval_loss<=champion'": "if its model is as good as the champion",
        "promote runs/a --to champion --back": "the one before is champion again",
    },
    "plan": {
        "plan recipe=llm_pretrain recipe.size=7b train.precision=bf16 cluster=8xh100": "on a machine that is not here",
        "plan recipe=image_classification cluster=cpu --mtbf-hours 50000 --nodes 2048": "and what failures would cost",
        "plan --calibrate": "measure this machine, as cluster=here",
    },
}
