"""An Airflow DAG that trains a recipe and follows it to its end; put it into the folder of your DAGs.

    airflow dags trigger trainkit --conf '{"words": ["recipe=llm_finetune"], "run_dir": "/shared/runs/a"}'

With launcher=slurm among the words the run is submitted, and followed by its folder. Airflow needs no trainkit in its
own environment: TRAINKIT_PYTHON names the interpreter that has it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

REFUSED = 2


class Train(BaseOperator):
    """Ends with the run. A retry goes on from the newest checkpoint, or follows a run that its task has lost."""

    template_fields = ("words", "run_dir")

    def __init__(self, *, words: Sequence[str] | str, run_dir: str, **more: object) -> None:
        super().__init__(**more)
        self.words, self.run_dir, self.killed = words, run_dir, False

    def execute(self, context: Context) -> str:
        followed = Path(self.run_dir, "config.yaml").exists() or Path(self.run_dir, "job.json").exists()
        if followed and self.trainkit("jobs", "wait", self.run_dir) == 0:
            return self.run_dir
        submit = ["launcher.submit=true"] if "launcher=slurm" in self.words else []
        code = self.trainkit(*self.words, *submit, f"run.dir={self.run_dir}")
        if code == 0:
            code = self.trainkit("jobs", "wait", self.run_dir)
        if self.killed:
            raise AirflowFailException("stopped on request; clear the task to go on from its checkpoint")
        if code == REFUSED:
            raise AirflowFailException("the run was refused: the log says why, and another try would be, too")
        if code != 0:
            raise AirflowException(f"the run ended with exit code {code}; the next try goes on from its checkpoint")
        return self.run_dir

    def on_kill(self) -> None:
        """Let it save, and leave."""
        self.killed = True
        self.trainkit("jobs", "stop", self.run_dir)
        self.trainkit("jobs", "wait", self.run_dir)

    def trainkit(self, *words: str) -> int:
        """A command, with its lines in the task's log. Its session is its own: it is told once to stop, by on_kill."""
        command = [os.environ.get("TRAINKIT_PYTHON", "python"), "-m", "trainkit", *words]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            for line in process.stdout or ():
                self.log.info(line.rstrip())
        return process.returncode


with DAG(
    "trainkit",
    schedule=None,
    catchup=False,
    params={"words": ["recipe=llm_finetune"], "run_dir": "runs/airflow"},
    render_template_as_native_obj=True,
) as dag:
    Train(
        task_id="train",
        words="{{ params.words }}",
        run_dir="{{ params.run_dir }}",
        retries=3,
        retry_delay=timedelta(seconds=5),
    )
