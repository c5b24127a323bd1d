# Every target but help first sets up .venv if it is missing, or older than requirements.txt or
# pyproject.toml. The file needs only make 3.81 and POSIX sh, so that it works before any installation.

# The names or paths of Python to try, best first; `make install PYTHON=python3.13` insists on one.
PYTHON ?= python3.11 python3.12 python3.13 python3 python
BIN = .venv/bin
# The number of processes that run the tests; each runs whole test files, or folders of them.
WORKERS ?= 2
# The number of trainings of the demo and of the search that run at once, each in a process of its own.
JOBS ?= 2
LAUNCHER = hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS)
# This file is written last, so that the next make repeats a set-up that was interrupted.
STAMP = .venv/.bort-installed
# This file exists while packages are copied. A make that finds it starts from an empty .venv. If pip
# fails by itself (no network), the file is removed, so that a working .venv survives.
BUSY = .venv/.bort-installing

export PIP_DISABLE_PIP_VERSION_CHECK = 1

# make takes NAME=VALUE for a variable of its own, which no command would see, so settings go in ARGS.
# The name of a setting begins with a small letter. Spaces in a value are `\ ` here and are hidden first.
empty :=
space := $(empty) $(empty)
SMALL = a% b% c% d% e% f% g% h% i% j% k% l% m% n% o% p% q% r% s% t% u% v% w% x% y% z%
SETTING := $(firstword $(filter $(SMALL),$(subst \$(space),_,$(MAKEOVERRIDES))))
ifneq ($(SETTING),)
$(error $(SETTING) would be ignored; write make $(firstword $(MAKECMDGOALS)) ARGS="$(SETTING)")
endif

.PHONY: help install demo search pipeline test test-lowest lint bench docs licences

help:
	@echo "make install   set up .venv with the versions of requirements.txt"
	@echo "make demo      train a teacher, distil a student, and compare it with plain training"
	@echo "make search    find the best architecture of a small grid within a budget, with a proof"
	@echo "make pipeline  search, pre-train, fine-tune, export, measure: one report (ARGS='data.path=…')"
	@echo "make test      run the tests"
	@echo "make test-lowest  run them with the lowest versions that pyproject.toml allows"
	@echo "make lint      check style and format"
	@echo "make licences  list the packages of .venv with their licences"
	@echo "make bench     run the benchmarks behind the figures of docs/results.md"
	@echo "make docs      write the site of docs/ to build/site, which opens in any browser"

install: $(STAMP)
	@echo "bort is installed in .venv; next: make demo"

demo: $(STAMP)
	$(BIN)/python train.py experiment=kd_vs_mlm name=demo $(LAUNCHER) $(ARGS)

search: $(STAMP)
	$(BIN)/python search.py name=search $(LAUNCHER) search.parallel=$(JOBS) $(ARGS)

pipeline: $(STAMP)
	$(BIN)/python -m bort.pipeline $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# torch keeps the version of requirements.txt: lower ones may have no build for this machine. Old
# packages warn of each other, which is no failure here.
test-lowest: $(STAMP)
	$(BIN)/python -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install -q uv
	.venv-lowest/bin/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct \
	  --index-strategy unsafe-best-match "$$(grep '^torch==' requirements.txt)" \
	  -e ".[onnx,launchers,baselines,docs,dev]"
	.venv-lowest/bin/python -m pytest -q -n $(WORKERS) --dist loadfile -W ignore::DeprecationWarning

licences: $(STAMP)
	@$(BIN)/python .ci/licences.py

lint: $(STAMP)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

bench: $(STAMP)
	$(BIN)/python benchmarks/corpus.py leak
	$(BIN)/python benchmarks/pretrain.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/recipe.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/latency.py

# mkdocs-material would print an advertisement of its successor.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

# A .venv that works is brought up to date in place; any other is made anew. The check for a usable
# Python runs the candidate, because a pyenv shim exists for versions that then fail to start, and
# Debian's python3 has no ensurepip without python3-venv. torch is installed first, by its exact
# version, because a looser request may bring gigabytes of CUDA packages.
$(STAMP): requirements.txt pyproject.toml
	@set -e; \
	check='import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	if test -e $(BUSY) || ! $(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || ! $(BIN)/python -c "$$check" >/dev/null 2>&1; then \
	  python=; found=; IFS=:; \
	  for name in $$(echo "$(PYTHON)" | tr ' ' ':'); do \
	    case $$name in */*) folders=$${name%/*};; *) folders=$$PATH;; esac; \
	    for folder in $$folders; do \
	      candidate=$$folder/$${name##*/}; \
	      test -f "$$candidate" && test -x "$$candidate" || continue; \
	      if "$$candidate" -c "$$check" >/dev/null 2>&1; then python=$$candidate; break 2; fi; \
	      version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	        || continue; \
	      case $$version in 3.11|3.12|3.13) version="$$version without venv";; esac; \
	      found="$$found, $$candidate ($$version)"; \
	    done; \
	  done; unset IFS; \
	  if test -z "$$python"; then \
	    found=$${found#, }; \
	    echo "bort needs Python 3.11, 3.12 or 3.13 on PATH; found: $${found:-none}" >&2; exit 1; \
	  fi; \
	  echo "setting up .venv with $$python (a minute or two) ..."; \
	  "$$python" -m venv --clear .venv; \
	else \
	  echo "bringing .venv up to date (a minute or two) ..."; \
	fi; \
	touch $(BUSY); \
	pip="$(BIN)/python -m pip install -q"; \
	{ $$pip -c requirements.txt "$$(grep '^torch==' requirements.txt)" && $$pip -r requirements.txt \
	  && $$pip --no-deps --no-build-isolation -e .; } || { rm $(BUSY); exit 1; }; \
	mv $(BUSY) $(STAMP)
