"""Exact replay: a trace on the machine that was traced, to judge the model. No part of a release."""
