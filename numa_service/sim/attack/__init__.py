"""Attacks on a simulated machine: clients, crashes and network faults, all drawn from a seed."""
