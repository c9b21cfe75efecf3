"""The machine to emulate: its description, the formats that descriptions come in, and its boot."""
