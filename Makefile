# make train: create the environment and run CDS pre-training on the embedded images.
# make test:  create the environment and run all tests; make test-fast: those that take under a second.
# make test-plain: run the inner folders and the examples in an environment without OpenMMLab.
# make test-matrix: install into fresh environments, train one epoch, run the fast tests: every Python of MATRIX, the lowest
# versions that setup.py allows, and the newest.
# make site: build the documentation into site/.
# make detect: train a detector on scenes of those images with the backbone of make train (which runs first if needed).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART := cds/resnet18w16_fashion-tuned
WORK_DIR ?= work_dirs/$(QUICKSTART)
BACKBONE ?= $(WORK_DIR)/backbone_epoch_15.pth
DETECTOR ?= faster-rcnn_resnet18w16_scenes-cds
EVERYTHING := .[openmmlab,det,calib,timm,dev,docs,export]
PLAIN := .[plain]
MATRIX ?= 3.10 3.11 3.12 3.13 lowest newest
DETECT_DIR ?= work_dirs/detection/$(DETECTOR)

.PHONY: train test test-fast test-plain test-matrix detect site lint format clean

# Install into an environment; what pip says is kept, and its end is shown where it fails.
install = $(1)/bin/python -m pip install $(2) > $(1)/install.log 2>&1 || { tail -n 25 $(1)/install.log; exit 1; }

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 13); ok or sys.exit("mmcds needs Python 3.10 to 3.13, this is " + sys.version.split()[0] + "; choose one with: make $(MAKECMDGOALS) PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),-c constraints.txt -e '$(EVERYTHING)')
	$(BIN)/python -m mmcds.cli.doctor
	touch $@

train: $(VENV)/installed
	PATH="$(abspath $(BIN)):$$PATH" python tools/train.py configs/$(QUICKSTART).py --work-dir $(WORK_DIR) --resume

test: $(VENV)/installed
	OMP_NUM_THREADS=1 PATH="$(abspath $(BIN)):$$PATH" python -m pytest -n auto --dist loadscope

test-fast: $(VENV)/installed
	OMP_NUM_THREADS=1 PATH="$(abspath $(BIN)):$$PATH" python -m pytest -q -n auto -m 'not slow'

$(VENV)-plain/installed: setup.py
	$(PYTHON) -m venv $(VENV)-plain
	$(call install,$(VENV)-plain,-e '$(PLAIN)')
	touch $@

test-plain: $(VENV)-plain/installed
	OMP_NUM_THREADS=1 $(VENV)-plain/bin/python -m pytest -q --confcutdir=tests/plain tests/plain

test-matrix: $(addprefix matrix-,$(MATRIX))

matrix-lowest: INTERPRETER = python3.10
matrix-lowest: VERSIONS = -c constraints-lowest.txt
matrix-newest: INTERPRETER = python3.13
matrix-newest: VERSIONS =
# old releases warn of what they do, new ones of what they will no longer: that is not ours to mend
matrix-lowest matrix-newest: WARNINGS = -W default

matrix-%: INTERPRETER = python$*
matrix-%: VERSIONS = -c constraints.txt
matrix-%:
	rm -rf $(VENV)-matrix/$*
	$(INTERPRETER) -m venv $(VENV)-matrix/$*
	$(call install,$(VENV)-matrix/$*,$(VERSIONS) -e '$(EVERYTHING)')
	$(VENV)-matrix/$*/bin/python -m mmcds.cli.doctor
	PATH="$(abspath $(VENV)-matrix/$*/bin):$$PATH" python tools/train.py configs/$(QUICKSTART).py \
		--work-dir $(VENV)-matrix/$*/run --cfg-options train_cfg.max_epochs=1 train_dataloader.dataset.indices=640
	OMP_NUM_THREADS=1 PATH="$(abspath $(VENV)-matrix/$*/bin):$$PATH" python -m pytest -q -n auto $(WARNINGS) -m 'not slow'

$(BACKBONE):
	$(MAKE) train

detect: $(VENV)/installed $(BACKBONE)
	export PATH="$(abspath $(BIN)):$$PATH" MMCDS_BACKBONE="$(BACKBONE)" && \
	python tools/make_fashion_scenes.py && \
	python tools/train.py configs/detection/$(DETECTOR).py --work-dir $(DETECT_DIR) --resume && \
	checkpoint=$$(cat $(DETECT_DIR)/last_checkpoint) && \
	python tools/test.py configs/detection/$(DETECTOR).py $$checkpoint --work-dir $(DETECT_DIR)/test && \
	python tools/draw_detections.py configs/detection/$(DETECTOR).py $$checkpoint --out $(DETECT_DIR)/detections.png

site: $(VENV)/installed
	$(call install,$(VENV),-c constraints.txt -e '.[docs]')
	$(BIN)/python -m mkdocs build --strict

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-plain $(VENV)-matrix build dist site *.egg-info mmcds/.mim
