# impfed: every target sets up what it needs, so "make demo" works on a fresh Debian 12.
#
#   make demo            Prosody, one node and a Lync-style far side on this machine, step by step
#   make demo CHECK=1    the same without staying up; exit code 0 only if every step was seen
#   make test            all tests, real servers included   (TESTS=tests.sip for a part)
#   make soak            every combination of settings and certificates with real XMPP servers, and
#                        half an hour of faults in a cluster with 10,000 subscriptions, and RUNS (1,500)
#                        simulated runs of a node and of a cluster, for which two cores take 20 minutes
#   make lint            ruff, mypy, import-linter, towncrier
#   make bench           impfed beside its peers: CPU and memory against the targets
#   make docs            pictures and links of the documentation
#   make packages venv   only the set-up; PYTHON=... picks the interpreter (3.11 or newer)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTS  ?= tests
SEEN    := $(CURDIR)/run/s2s-outcomes.tsv
CLUSTER := $(addprefix tests.interop.test_cluster,_store _links _upkeep _sentinel _xmpp _budget) tests.interop.test_cluster
RUNS    ?= 1500
SCRIPTS := scripts/run-tests scripts/check-docs scripts/draw-topologies

.PHONY: help venv packages demo test soak bench docs clean
.PHONY: lint lint-style lint-types lint-rooms lint-news

help:
	@sed -n 's/^#   //p' Makefile

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt scripts/make-venv
	PYTHON=$(PYTHON) VENV=$(VENV) scripts/make-venv
	@touch $@

packages:
	@scripts/install-packages

demo: packages $(STAMP)
	$(BIN)/python -m demo.run $(if $(CHECK),--check)

test: packages $(STAMP)
	$(BIN)/python scripts/run-tests $(TESTS)

soak: packages $(STAMP)
	rm -f $(SEEN)
	IMPFED_SOAK=1 IMPFED_RECORD=$(SEEN) $(BIN)/python scripts/run-tests \
		tests.interop.test_s2s_matrix tests.interop.test_s2s_ejabberd
	$(BIN)/python scripts/s2s-outcomes --take $(SEEN)
	IMPFED_SOAK=1 $(BIN)/python scripts/run-tests $(CLUSTER)
	IMPFED_SOAK=1 IMPFED_RUNS=$(RUNS) $(BIN)/python scripts/run-tests tests.simulation

lint: lint-style lint-types lint-rooms lint-news

lint-style: $(STAMP)
	$(BIN)/ruff check . $(SCRIPTS)
	$(BIN)/ruff format --check . $(SCRIPTS)

lint-types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/mypy --strict demo bench

lint-rooms: $(STAMP)
	$(BIN)/lint-imports

# The fragments must make a readable change log; whether one is missing is for the reader to say.
lint-news: $(STAMP)
	$(BIN)/towncrier build --draft --version next --date unreleased >/dev/null

bench: packages $(STAMP)
	$(BIN)/python -m bench.run $(BENCH)

docs: $(STAMP)
	$(BIN)/python scripts/check-docs

clean:
	rm -rf build *.egg-info run _trial_temp* .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
