# make pretrain    installs t5x-mini into .venv, then trains a small T5 on the documentation of what was installed
# make glue        pretrains for some minutes, finetunes on small tables in GLUE's format, prints what it brought
# make test        adds what the tests need, PyTorch for one, and runs all but the slow ones (.venv/bin/pytest -m slow)
# make chaos       kills training runs 200 times, does every other damage to them, and says what held: half an hour and more
# make docs        builds the documentation as a site in site/ (site/index.html), without the network; a warning fails
# make lint        ruff
# make clean       removes .venv, site/ and the caches, and leaves runs/

PYTHON ?= python3
# Memory that is freed is kept, as in every command of t5x-mini (t5x_mini/kept_memory.py).
export GLIBC_TUNABLES ?= glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=1099511627776
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: pretrain glue test chaos docs lint clean

pretrain: $(VENV)/installed
	$(VENV)/bin/t5x-mini train --gin_file=gin/quickstart.gin

glue: $(VENV)/installed
	$(VENV)/bin/t5x-mini train --gin_file=gin/tiny_glue/pretrain.gin
	$(VENV)/bin/t5x-mini glue --checkpoint=runs/tiny_glue/pretrained --gin_file=gin/tiny_glue/finetune.gin \
		--output=runs/tiny_glue --from_scratch --seeds=3

test: $(VENV)/dev
	$(VENV)/bin/python -m pytest -n 2 --max-worker-restart=1 --dist loadfile --no-loadscope-reorder -m "not slow"

chaos: $(VENV)/dev
	$(VENV)/bin/python tests/chaos.py --kills=200 --damage

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find t5x_mini tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "t5x-mini needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
		echo "Name a newer one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); this takes a minute or two."
	$(PIP) -e .
	@touch $@

$(VENV)/docs: $(VENV)/installed
	@echo "Installing what the documentation is built with into $(VENV)."
	$(PIP) -e '.[docs]'
	@touch $@

# Alone and first, PyTorch comes from its own index where that can be reached: on Linux, PyPI's is the CUDA build, some
# gigabytes. Where it can't, pip says so and goes on.
$(VENV)/dev: $(VENV)/installed
	@echo "Installing what the tests need into $(VENV); this takes a minute or two."
	-$(PIP) --no-deps --retries 1 --timeout 10 --extra-index-url https://download.pytorch.org/whl/cpu torch
	$(PIP) -e '.[dev]'
	@touch $@
