# Needs make and Python 3.11, 3.12 or 3.13; everything else goes into .venv, once.

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
LAB_READY := $(VENV)/.lab-ready
TEST_READY := $(VENV)/.test-ready
BROWSER_READY := $(VENV)/.browser-ready
COLAB_READY := .venv-colab/.ready
SITE_READY := .venv-site/.ready
INSTALL = $(BIN)/python -m pip install --no-input --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help lab test run notebooks solved check format lint drill browser site links health fork release grade experiment clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'
	@echo
	@echo "  LESSON_BUDGET=smoke|laptop|gpu|long sets how much work a lesson does; without it the device decides."
	@echo "  Linux without a GPU: with TORCH_INDEX=https://download.pytorch.org/whl/cpu what installs (lab, test, drill) takes gigabytes less."

lab: $(LAB_READY)  ## install what learners need (once) and open JupyterLab at lesson 00
	@mkdir -p $(VENV)/share/jupyter/lab/settings && cp lesson_lib/delivery/overrides.json $(VENV)/share/jupyter/lab/settings/
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" notebooks/00_start_here.ipynb

test: $(TEST_READY)  ## install everything (once) and check all that must hold: format, types, tests, notebooks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m lesson_lib.build check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
	@mkdir -p build && rm -f build/nbval-progress.json
	OMP_NUM_THREADS=1 LESSON_BUDGET=smoke LESSON_PROGRESS="$(CURDIR)/build/nbval-progress.json" $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=120 notebooks

run: $(TEST_READY)  ## execute one lesson (LESSON=01), write build/html/, print seconds and peak memory
	@test -n "$(LESSON)" || { echo "say which lesson: make run LESSON=01" >&2; exit 2; }
	$(BIN)/python -m lesson_lib.build run --lesson "$(LESSON)"

notebooks: $(TEST_READY)  ## build and execute the student editions into notebooks/ (one: LESSON=01)
	$(BIN)/python -m lesson_lib.build notebooks $(if $(LESSON),--lesson $(LESSON)) --budget $(or $(LESSON_BUDGET),laptop)

solved: $(TEST_READY)  ## write the solved editions into build/solved/ (one: LESSON=01)
	$(BIN)/python -m lesson_lib.build solved $(if $(LESSON),--lesson $(LESSON))

check: $(TEST_READY)  ## say which notebooks differ from their lessons
	$(BIN)/python -m lesson_lib.build check

format: $(TEST_READY)  ## format the sources and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(TEST_READY)  ## format, style and types, nothing executed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

drill: $(TEST_READY) $(COLAB_READY)  ## run the lessons as Colab would (all, or LESSONS="00 04"; FORK=owner/name: as that fork would)
	$(BIN)/python -m lesson_lib.delivery drill $(LESSONS) $(if $(FORK),--fork "$(FORK)")

browser: $(BROWSER_READY)  ## work through two lessons in JupyterLab with chromium; screenshots in build/browser/
	$(BIN)/python -m lesson_lib.delivery browser

site: $(TEST_READY) $(SITE_READY) $(if $(PICTURES),$(BROWSER_READY))  ## write the website into build/site/ (PICTURES=1: and look at it with chromium)
	$(BIN)/python -m lesson_lib.delivery site $(if $(PICTURES),--pictures)

links: $(TEST_READY)  ## check every link, those to other hosts too (needs a network)
	$(BIN)/python -m lesson_lib.delivery links --external

health: $(TEST_READY)  ## compare Colab's packages with a newer freeze and drill against it (FREEZE=pip-freeze.txt [LESSONS="00"] [ARGS="--no-drill"])
	@test -n "$(FREEZE)" || { echo "say which freeze: make health FREEZE=pip-freeze.txt" >&2; exit 2; }
	$(BIN)/python -m lesson_lib.delivery health "$(FREEZE)" $(LESSONS) $(ARGS)

fork: $(TEST_READY)  ## put your repository's address into every badge and set-up cell (REPO=owner/name)
	@test -n "$(REPO)" || { echo "say which repository: make fork REPO=owner/name" >&2; exit 2; }
	$(BIN)/python -m lesson_lib.build fork "$(REPO)"

release: $(TEST_READY)  ## pack the notebooks of some lessons for students (LESSONS="05 06")
	@test -n "$(LESSONS)" || { echo 'say which lessons: make release LESSONS="05 06"' >&2; exit 2; }
	$(BIN)/python -m lesson_lib.build release $(LESSONS)

grade: $(LAB_READY)  ## grade a folder or zip of notebooks (LESSON=07 SUBMISSIONS=… [OUT=…] [ARGS="--rubric rubric.toml"])
	@test -n "$(LESSON)" && test -n "$(SUBMISSIONS)" || { echo "say what: make grade LESSON=07 SUBMISSIONS=folder-or-zip" >&2; exit 2; }
	$(BIN)/python -m lesson_lib.grading grade "$(SUBMISSIONS)" --lesson "$(LESSON)" --out "$(or $(OUT),build/grades-$(LESSON))" $(ARGS)

experiment: $(TEST_READY)  ## run one recorded experiment again (NAME=…, ARGS="--budget laptop --seeds 5")
	@test -n "$(NAME)" || { echo "say which experiment: make experiment NAME=…" >&2; exit 2; }
	$(BIN)/python -m lesson_lib.experiments $(NAME) $(ARGS)

clean:  ## remove build/ and the caches; .venv stays
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv found; install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(LAB_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[lab]"
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[lab,test]"
	@touch $(LAB_READY) $@

$(BROWSER_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[lab,browser]"
	@touch $(LAB_READY) $@

$(COLAB_READY): lesson_lib/delivery/colab.txt constraints.txt | $(TEST_READY)
	$(BIN)/python -m lesson_lib.delivery environment .venv-colab
	@touch $@

$(SITE_READY): lesson_lib/delivery/site/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-site
	.venv-site/bin/python -m pip install --no-input --disable-pip-version-check --quiet --no-deps -r $<
	@touch $@
