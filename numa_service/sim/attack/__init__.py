"""A simulator that attacks: clients, crashes, cuts and bad networks drawn from a seed, and what must hold."""
