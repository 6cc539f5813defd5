# Each verb starts one Python command; `make` alone lists the verbs.  A verb first runs the verbs it needs: `make train`
# on a new machine installs, makes the sample dataset, its ledgers and shards, trains and evaluates.  All can be repeated.
#
#   CONFIG=FILE        the experiment file: by default the sample's, which takes minutes on a laptop; with DATA
#                      train/configs/own.yaml, and with WEIGHTS too train/configs/finetune.yaml
#   DATA=DIR           the folder of videos
#   NAME=NAME          the dataset's name, and that of its folder of ledgers
#   STORE=DIR          the folder of shards
#   WEIGHTS=FILE       the weights that training starts from        (train)
#   CKPT=FILE          the checkpoint or the run folder to use      (eval, features, infer, export, report; default: newest)
#   SPLIT=SPLIT        the split: train, val or test                (eval, features, infer)
#   VIDEO=PATH         a video, a folder, a list file or a glob     (infer)
#   OUT=DIR            the folder of the results                    (eval, features, infer, report)
#   FROM=FILE TO=FILE  weights to read and to write                 (convert)
#   GPU=1              install NVIDIA's libraries too (they stay installed)
#   DEVICES=N          train or eval on N devices of this machine with MindSpore's msrun, one process each; they meet at
#                      PORT=P
#   ARGS="..."         more flags for the verb, quoted as in a shell: ARGS="--train.epochs=2 --train.ckpt_path='my runs'"
#                      With several verbs only --section.key=VALUE, which all of them get.  Of it, verbs that run
#                      because a later one needs them get --preprocess.key=VALUE.
#
# Without CONFIG and DATA, eval, features, infer, export and report take the newest run of all, with its own settings.

# A value may hold any character.  Make does not expand it, and recipes only hold "$$DATA" and the like: the shell reads
# the value from the environment, and runs nothing in it.
VARIABLES = CONFIG DATA NAME STORE WEIGHTS CKPT SPLIT VIDEO OUT FROM TO GPU DEVICES PORT PYTHON ARGS
# Other programs have these in the environment: only what is typed after `make` counts.
ONLY_TYPED = NAME WEIGHTS SPLIT OUT
TYPED := $(foreach v,$(VARIABLES),$(if $(filter command,$(origin $v)),$v))
$(foreach v,$(filter-out $(TYPED),$(ONLY_TYPED)),$(eval override $v :=))
$(foreach v,$(VARIABLES),$(eval override $v := $$(value $v)))

GIVEN_CONFIG := $(CONFIG)
CHOSEN       := $(CONFIG)$(DATA)
override CONFIG  := $(or $(CONFIG),train/configs/$(if $(DATA),$(if $(WEIGHTS),finetune,own),sample).yaml)
override DEVICES := $(or $(DEVICES),1)
override PORT    := $(or $(PORT),8118)
$(foreach v,$(VARIABLES),$(if $($v),$(eval export $v)))

RUN      = .venv/bin/python -m
# Python programs other than ours get the words of ARGS through this one.
RUN_ANY  = $(RUN) pipeline.common.cli
PLACES   = $(if $(DATA),--preprocess.data_root="$$DATA") $(if $(NAME),--preprocess.dataset="$$NAME") \
	$(if $(STORE),--preprocess.store="$$STORE")
SETTINGS = --config="$$CONFIG" $(PLACES)
OF_RUN   = $(if $(CHOSEN),--config="$$CONFIG") $(PLACES)
START    = $(if $(WEIGHTS),--train.pre_trained=true --train.pretrained_model="$$WEIGHTS")
WITH_ARGS   := $(filter-out help install lint clean,$(MAKECMDGOALS))
FLAGS        = $(if $(ARGS),$(if $(filter $@,$(WITH_ARGS)),$(if $(word 2,$(WITH_ARGS)),--shared-args,--args),--preprocess-args)="$$ARGS")
CHECKED_ARGS = $(if $(ARGS),$(if $(word 2,$(WITH_ARGS)),--shared-args,--args)="$$ARGS")
asked        = $(filter $(1),$(MAKECMDGOALS))

# A variable that no verb here takes would be ignored, so it is an error.
TAKE_WEIGHTS = train
TAKE_CKPT    = eval features infer export report
TAKE_SPLIT   = eval features infer
TAKE_VIDEO   = infer
TAKE_OUT     = eval features infer report
TAKE_FROM    = convert
TAKE_TO      = convert
TAKE_DEVICES = train eval
TAKE_PORT    = train eval
$(foreach v,$(TYPED),$(if $(and $($v),$(TAKE_$v)),$(if $(call asked,$(TAKE_$v)),,$(error \
	$v: got a value, but only these verbs take it: $(TAKE_$v). Remove it, or run another verb))))

LEDGERS = $(if $(call asked,manifests),manifests,.ledgers)
FITS    = $(if $(call asked,train eval features infer),.fits)
# What eval, features and infer of a split need first: the verbs that are typed with them, else shards if they do not take those of a run.
SCORED  = $(or $(call asked,preprocess train),$(if $(CHOSEN),.shards,install))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install sample manifests estimate preprocess verify train eval features infer export convert report doctor bench check-gpu bench-gpu test lint clean \
	.checked .videos .ledgers .fits .shards

help: ## Show this help
	@sed -n 's/^#   /  /p' Makefile; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: .venv/.installed $(if $(filter-out 0,$(GPU)),.venv/.gpu) ## Make .venv and install everything into it (skipped if it is up to date)

sample: install ## Make the sample dataset: 8 classes of motion, with files as in Kinetics
	$(RUN) pipeline.sample $(FLAGS)

manifests: .videos ## Build or rebuild the ledgers from label CSVs, videos and shards
	$(RUN) pipeline.manifests $(SETTINGS) $(FLAGS)

estimate: $(LEDGERS) ## Estimate the disk space, time and memory of preprocessing; writes nothing
	$(RUN) pipeline.estimate $(SETTINGS) $(FLAGS)

preprocess: $(LEDGERS) $(FITS) ## Decode every video once into HDF5 shards; can be stopped and run again
	$(RUN) pipeline.preprocess $(SETTINGS) $(FLAGS)

verify: install ## Check every shard and ledger; ARGS=--repair fixes shards and ledgers
	$(RUN) pipeline.verify $(SETTINGS) $(FLAGS)

train: $(if $(call asked,preprocess),preprocess,.shards) ## Train on the shards and evaluate
	$(RUN) $(if $(filter-out 1,$(DEVICES)),train.msrun --devices="$$DEVICES" --port="$$PORT",train.train) $(SETTINGS) $(START) $(FLAGS)

eval: $(SCORED) ## Score a checkpoint (CKPT=FILE, or the newest run's best)
	$(RUN) $(if $(filter-out 1,$(DEVICES)),train.msrun --program=evaluate --devices="$$DEVICES" --port="$$PORT",train.evaluate) \
		$(OF_RUN) $(if $(CKPT),--eval.pretrained_model="$$CKPT") \
		$(if $(SPLIT),--data_loader.eval.dataset.split="$$SPLIT") \
		$(if $(OUT),--eval.output_dir="$$OUT") $(FLAGS)

features: $(SCORED) ## Write what the network sees before its last layer (CKPT=FILE, SPLIT=val) as HDF5
	$(RUN) train.features $(OF_RUN) $(if $(CKPT),--eval.pretrained_model="$$CKPT") \
		$(if $(SPLIT),--data_loader.eval.dataset.split="$$SPLIT") $(if $(OUT),--output-dir="$$OUT") $(FLAGS)

infer: $(if $(SPLIT),$(SCORED),install) ## Predict videos (VIDEO=PATH or SPLIT=val): a table, and pictures with the label
	$(RUN) train.infer $(OF_RUN) $(if $(VIDEO),--infer.image_path="$$VIDEO") \
		$(if $(SPLIT),--split="$$SPLIT") $(if $(OUT),--infer.output_dir="$$OUT") \
		$(if $(CKPT),--infer.pretrained_model="$$CKPT") $(FLAGS)

export: install ## Write the network as MINDIR or ONNX, and check the file by running it
	$(RUN) train.export $(OF_RUN) $(if $(CKPT),--export.pretrained_model="$$CKPT") $(FLAGS)

# Without CONFIG, the network is that recorded with a .ckpt, else the full one with 400 classes, not the sample's.
convert: install ## Convert weights (FROM=FILE TO=FILE): .pth, .safetensors, .ckpt
	$(RUN) train.convert $(if $(GIVEN_CONFIG),--config="$$CONFIG") $(FLAGS) -- "$$FROM" "$$TO"

report: install ## Make pages of the dataset, the newest run (CKPT=FOLDER: another) and its evaluations
	$(RUN) train.report $(OF_RUN) $(if $(CKPT),--run="$$CKPT") $(if $(OUT),--output-dir="$$OUT") $(FLAGS)

doctor: install ## Check this machine: what it has, what is missing, what to do about it
	$(RUN) train.doctor $(SETTINGS) $(FLAGS)

bench: .shards ## Measure this machine: decoding, loading, training steps
	for script in $(filter-out %/bench_gpu.py,$(wildcard tests/benchmarks/bench_*.py)); do \
		$(RUN_ANY) $$script $(FLAGS) || exit; done

# A rehearsal on a CPU needs none of NVIDIA's libraries.
FOR_GPU = $(if $(findstring --device CPU,$(subst =, ,$(ARGS))),install,.venv/.gpu)

check-gpu: $(FOR_GPU) ## Check in minutes that the GPU computes what training and evaluation need
	$(RUN_ANY) tests/benchmarks/check_gpu.py --json check_gpu.json $(FLAGS)

bench-gpu: $(FOR_GPU) .shards ## Check and time every layout and precision on the GPU, and PyTorch if it is installed
	$(RUN_ANY) tests/benchmarks/bench_gpu.py $(SETTINGS) --json bench_gpu.json $(FLAGS)

test: install ## Run the tests (ARGS="-m slow" for the long ones)
	$(RUN_ANY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(FLAGS)

lint: .venv/.lint ## Check style and types
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

clean: ## Remove the sample, its ledgers and shards; runs and .venv stay
	rm -rf data/sample data/sample-shards data_manifests/kinetics-sample

# What runs only because a later verb needs it prints on stderr, so that stdout has the results of the verb alone.
# Errors that would stop training or evaluation are found before hours of decoding: those of the settings at once, and
# those that need the ledgers after `make manifests`.
CHECK = $(RUN) train.check $(SETTINGS) $(START) $(if $(CKPT),--ckpt="$$CKPT") \
	$(if $(SPLIT),--data_loader.eval.dataset.split="$$SPLIT") $(if $(OUT),--$(if $(call asked,infer),infer,eval).output_dir="$$OUT") \
	$(if $(filter-out 1,$(DEVICES)),--devices="$$DEVICES") $(CHECKED_ARGS)
CHECK_FOR = --for=$(or $(call asked,train),$(firstword $(call asked,eval features infer)))

.checked: install
	$(CHECK) $(CHECK_FOR) >&2

.fits: $(LEDGERS)
	$(CHECK) $(CHECK_FOR) --with-ledgers >&2

.videos: install $(if $(FITS),.checked)
	$(if $(filter-out train/configs/sample.yaml,$(CONFIG)),,$(if $(DATA),,$(if $(call asked,sample),,$(RUN) pipeline.sample >&2)))

.ledgers: .videos
	$(RUN) pipeline.manifests $(SETTINGS) $(FLAGS) >&2

.shards: $(LEDGERS) $(FITS)
	$(RUN) pipeline.preprocess $(SETTINGS) $(FLAGS) >&2

# PYTHON, or the first Python on the path for which MindSpore has a wheel.
.venv/.installed: pyproject.toml
	@for python in "$${PYTHON:-python3}" python3.12 python3.11 python3.10; do \
		"$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && \
			exec "$$python" -m venv .venv; \
		test -z "$$PYTHON" || break; done; \
	echo "error: no Python 3.10, 3.11 or 3.12 on the path. Give one with PYTHON=FILE." >&2; exit 2
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/.lint: .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	touch $@

.venv/.gpu: .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[gpu]'
	touch $@
