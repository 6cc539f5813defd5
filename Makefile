# Each verb starts one Python command; `make` alone lists the verbs.  A verb first runs the verbs it needs: `make train`
# on a new machine installs, makes the sample dataset, its ledgers and shards, trains and evaluates.  All can be repeated.
#
#   CONFIG=FILE        the experiment file            (default: the sample, which takes minutes on a laptop)
#   DATA=DIR           the folder of videos
#   STORE=DIR          the folder of shards
#   VIDEO=FILE         the video to predict           (infer)
#   CKPT=FILE          the checkpoint to use          (eval, infer, export; default: the newest run's best)
#   FROM=FILE TO=FILE  weights to read and to write   (convert)
#   GPU=1              install NVIDIA's libraries too (they stay installed)
#   DEVICES=N          train on N devices of this machine with MindSpore's msrun, one process each
#   ARGS="..."         more flags for the verb, such as ARGS="--train.epochs=2" (KEY=VALUE without spaces)

CONFIG ?= train/configs/sample.yaml
DATA   ?=
STORE  ?=
VIDEO  ?=
CKPT   ?=
FROM   ?=
TO     ?=
GPU    ?=
DEVICES ?= 1
PORT   ?= 8118
ARGS   ?=
# The first Python on the path for which MindSpore has a wheel.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)

RUN      = .venv/bin/python -m
SETTINGS = -c $(CONFIG) $(if $(DATA),--preprocess.data_root=$(DATA)) $(if $(STORE),--preprocess.store=$(STORE))
# A verb that only runs because a later one needs it gets the overrides of `preprocess` and no other flags.
SHARED   = $(SETTINGS) $(filter --preprocess.%,$(ARGS))
asked    = $(filter $(1),$(MAKECMDGOALS))

# The sample's configuration is only for the sample: its ledgers and shards must not be mixed with other videos'.
ifneq ($(DATA),)
ifeq ($(CONFIG) $(filter --preprocess.dataset=%,$(ARGS)),train/configs/sample.yaml )
$(error DATA=$(DATA): got the configuration of the sample, expected another CONFIG=FILE. For Kinetics, give \
	CONFIG=train/configs/r2plus1d18.yaml. For your own videos, give a copy with another preprocess.dataset)
endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install sample manifests estimate preprocess verify train eval infer export convert report doctor bench bench-gpu test lint clean \
	.checked .videos .ledgers .shards

help: ## Show this help
	@sed -n 's/^#   /  /p' Makefile; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: .venv/.installed $(if $(filter-out 0,$(GPU)),.venv/.gpu) ## Make .venv and install everything into it (skipped if it is up to date)

sample: install ## Make the sample dataset: 8 classes of motion, with files as in Kinetics
	$(RUN) pipeline.sample $(ARGS)

manifests: .videos ## Build or rebuild the ledgers from label CSVs, videos and shards
	$(RUN) pipeline.manifests $(SETTINGS) $(ARGS)

estimate: $(if $(call asked,manifests),manifests,.ledgers) ## Estimate the disk space, time and memory of preprocessing; writes nothing
	$(RUN) pipeline.estimate $(SETTINGS) $(ARGS)

preprocess: $(if $(call asked,manifests),manifests,.ledgers) ## Decode every video once into HDF5 shards; can be stopped and run again
	$(RUN) pipeline.preprocess $(SETTINGS) $(ARGS)

verify: install ## Check every shard and ledger; ARGS=--repair fixes shards and ledgers
	$(RUN) pipeline.verify $(SETTINGS) $(ARGS)

train: $(if $(call asked,preprocess),preprocess,.shards) ## Train on the shards and evaluate
	$(RUN) $(if $(filter 1,$(DEVICES)),train.train,train.msrun --devices $(DEVICES) --port $(PORT)) $(SETTINGS) $(ARGS)

eval: $(if $(call asked,preprocess train),$(call asked,preprocess train),.shards) ## Score a checkpoint (CKPT=FILE, or the newest run's best)
	$(RUN) train.evaluate $(SETTINGS) $(if $(CKPT),--eval.pretrained_model=$(CKPT)) $(ARGS)

infer: install ## Predict a video (VIDEO=FILE): top 5 classes, and a GIF with the label
	$(RUN) train.infer $(SETTINGS) --infer.image_path="$(VIDEO)" $(if $(CKPT),--infer.pretrained_model=$(CKPT)) $(ARGS)

export: install ## Write the network as MINDIR or ONNX, and check the file by running it
	$(RUN) train.export $(SETTINGS) $(if $(CKPT),--export.pretrained_model=$(CKPT)) $(ARGS)

# Without CONFIG, the weights are for the full network with 400 classes, not for the sample's narrow one.
convert: $(if $(filter %.pth,$(FROM)),.venv/.convert,install) ## Convert weights (FROM=FILE TO=FILE): .pth, .safetensors, .ckpt
	$(RUN) train.convert "$(FROM)" "$(TO)" $(if $(filter file,$(origin CONFIG)),,-c $(CONFIG)) $(ARGS)

report: install ## Draw clips and learning curves of the newest run (another: ARGS="--run FOLDER")
	$(RUN) train.report $(SETTINGS) $(ARGS)

doctor: install ## Check this machine: what it has, what is missing, what to do about it
	$(RUN) train.doctor $(SETTINGS) $(ARGS)

bench: .shards ## Measure this machine: decoding, loading, training steps
	for script in $(filter-out %/bench_gpu.py,$(wildcard tests/benchmarks/bench_*.py)); do \
		.venv/bin/python $$script $(ARGS) || exit; done

bench-gpu: .venv/.gpu .shards ## Check and time every layout and precision on the GPU, and PyTorch if it is installed
	.venv/bin/python tests/benchmarks/bench_gpu.py $(SETTINGS) --json bench_gpu.json $(ARGS)

test: install ## Run the tests (ARGS="-m slow" for the long ones)
	$(RUN) pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

lint: .venv/.lint ## Check style and types
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

clean: ## Remove the sample, its ledgers and shards; runs and .venv stay
	rm -rf data/sample data/sample-shards data_manifests/kinetics-sample

# Errors that would stop training or evaluation are found before hours of decoding.
.checked: install
	$(RUN) train.check $(SETTINGS) $(if $(CKPT),--ckpt="$(CKPT)") $(ARGS)

.videos: install $(if $(call asked,train eval),.checked)
	$(if $(DATA)$(filter-out train/configs/sample.yaml,$(CONFIG)),,$(if $(call asked,sample),,$(RUN) pipeline.sample))

.ledgers: .videos
	$(RUN) pipeline.manifests $(SHARED)

.shards: .ledgers
	$(RUN) pipeline.preprocess $(SHARED)

.venv/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 on the path. Give one with PYTHON=FILE." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/.lint: .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	touch $@

.venv/.convert: .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[convert]'
	touch $@

.venv/.gpu: .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[gpu]'
	touch $@
