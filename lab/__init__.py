"""Exact replay of a trace on the emulated machine that was traced, to judge the model; in no release."""
