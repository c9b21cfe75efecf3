.PHONY: setup
VENV := .venv
setup: $(VENV)/.ready
