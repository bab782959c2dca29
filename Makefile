# Two commands for a fresh machine: `make compare` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup -q
RESULTS ?= results
STEPS ?= 130000
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

INSTALLED := $(VENV)/installed
LINTERS := $(VENV)/linters
SITE := $(VENV)/site

.PHONY: compare constraints datasets docs docs-serve readme model-figure cluster-picture leaderboard tasks paper training validation deadlines serving groups disaggregation reuse bandits sizing fuzz test test-all test-bounds test-rllib lint format typecheck \
        wheel bench clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[agents,offline,report,serving,test]"
	touch $@

$(LINTERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[lint]"
	touch $@

$(SITE): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

# The site, in build/site; open build/site/index.html. A broken link or reference is an error.
docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The same at http://127.0.0.1:8000, built anew when a page changes.
docs-serve: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

# Compares rules, trains PPO from scratch at two sizes, then compares all; the Azure replay joins in where its files are
# found ($$LLM_SCHED_DATA, data/ or ../shared/data) or named with TRACES="FILE FILE".
compare: $(INSTALLED)
	$(BIN)/python -m llm_sched_env.commands.quick_comparison \
		--out $(RESULTS) --steps $(STEPS) $(foreach trace,$(TRACES),--trace $(trace))

# The table and figure of the last `make compare` go into the README.
readme: $(INSTALLED)
	$(BIN)/python -m research.pages.update_readme $(RESULTS)

# The picture of the model: docs/model.png.
model-figure: $(INSTALLED)
	$(BIN)/python -m research.pages.draw_model

# The measured table of docs/serving.md, on this machine; some minutes.
serving: $(INSTALLED)
	$(BIN)/python -m research.pages.update_serving

# The moving picture of the README.
cluster-picture: $(INSTALLED)
	$(BIN)/python -m research.pages.draw_cluster

# Every policy, with AGENTS="PATH,..." in addition, on the instances of docs/results/leaderboard.md;
# POLICIES="a,b" for some of them: those in Python take three quarters of the time.
leaderboard: $(INSTALLED)
	$(BIN)/python -m research leaderboard --out $(RESULTS)/leaderboard $(if $(AGENTS),--agents $(AGENTS)) \
		$(if $(POLICIES),--policies $(POLICIES))
	$(BIN)/python -m research.pages.update_leaderboard $(RESULTS)/leaderboard

# Headroom of the tasks and who closes it: docs/tasks.md, docs/results/tasks.md. Resumes what was
# stopped; ENTER="my_package.my_module:MyPolicy,TASK=agent.zip" enters in addition.
tasks: $(INSTALLED)
	$(BIN)/python -m research tasks --out $(RESULTS)/tasks $(if $(ENTER),--enter $(ENTER))
	$(BIN)/python -m research.pages.update_tasks $(RESULTS)/tasks

# Every statement of the paper that can be computed, at full size: docs/results/paper.md, docs/results/paper/.
paper: $(INSTALLED)
	$(BIN)/python -m research experiment all --out $(RESULTS)/paper
	$(BIN)/python -m research.pages.update_paper $(RESULTS)/paper

# The simulator beside measured runs, and the hardware presets: needs the folder h100 in $$LLM_SCHED_DATA.
validation: $(INSTALLED)
	$(BIN)/python -m research hardware-presets
	$(BIN)/python -m research.pages.update_validation

# Every policy on the instance with deadlines, paid for good requests: docs/deadlines.md.
deadlines: $(INSTALLED)
	$(BIN)/python -m research.pages.update_deadlines $(RESULTS)/deadlines

# Policies on clusters with several groups of GPUs: docs/groups.md.
groups: $(INSTALLED)
	$(BIN)/python -m research.pages.update_groups $(RESULTS)/groups

# Prefill and decode GPUs at every split, beside colocated ones: docs/disaggregation.md.
disaggregation: $(INSTALLED)
	$(BIN)/python -m research.pages.update_disaggregation $(RESULTS)/disaggregation

# Routers on GPUs with prefix caches: docs/reuse.md. Needs the Mooncake trace in $$LLM_SCHED_DATA.
reuse: $(INSTALLED)
	$(BIN)/python -m research.pages.update_reuse --measure

# Budgets for the time per token: docs/constraints.md. About 15 minutes of one CPU.
constraints: $(INSTALLED)
	$(BIN)/python -m research.pages.update_constraints $(RESULTS)/constraints

# Offline learning on recorded data: docs/datasets.md. About 10 minutes of one CPU.
datasets: $(INSTALLED)
	$(BIN)/python -m research.pages.update_datasets $(RESULTS)/datasets

# Bandits with biased offline data: docs/bandits.md. About 15 minutes of one CPU.
bandits: $(INSTALLED)
	$(BIN)/python -m research.pages.update_bandits $(RESULTS)/bandits

# The commands of docs/sizing.md on the Azure and Mooncake traces in $$LLM_SCHED_DATA.
sizing: $(INSTALLED)
	$(BIN)/python -m research.pages.update_sizing --measure

# PPO from scratch, every way of training, PPO at increasing scale: docs/training.md. About 80 minutes of one CPU.
training: $(INSTALLED)
	$(BIN)/python -m research train-study scratch --out $(RESULTS)/training/scratch
	$(BIN)/python -m research train-study variants --out $(RESULTS)/training/variants
	$(BIN)/python -m research train-study scale --out $(RESULTS)/training/scale
	$(BIN)/python -m research.pages.update_training $(RESULTS)/training

# What every change must pass; studies, leaderboard and trainings lightly.
test: $(INSTALLED)
	$(PYTEST) -m "not extended"

# Every test.
test-all: $(INSTALLED)
	$(PYTEST)

# Spoilt input, 10,000 cases of each property: docs/robustness.md.
fuzz: $(INSTALLED)
	LLM_SCHED_FUZZ_CASES=10000 $(PYTEST) tests/fuzz

# Every test with every array access of the compiled engine checked; several minutes more.
test-bounds: $(INSTALLED)
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/bounds-cache $(PYTEST)

# RLlib asks for one release of Gymnasium, so it has an environment of its own.
test-rllib: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-rllib
	.venv-rllib/bin/python -m pip install --quiet --editable ".[rllib,test]"
	.venv-rllib/bin/python -m pytest -q tests/envs/test_rllib.py

lint: $(LINTERS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(LINTERS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The checker cannot follow the mapped folders of an editable install: it reads the built package.
typecheck: $(LINTERS)
	rm -rf build/typecheck
	$(BIN)/python -m pip install --quiet --no-deps --target build/typecheck .
	cp -r research build/typecheck/
	cd build/typecheck && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml \
		-p llm_sched_env -p research

wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# Speed compared with other tools, and up to a million GPUs: a few minutes, 8 GB.
bench: $(INSTALLED)
	$(BIN)/llmsched bench --scaling 1000000 --out benchmarks/results
	$(BIN)/llmsched bench --vector --out benchmarks/results

clean:
	rm -rf $(VENV) .venv-rllib build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
