"""The web console: one feed of the machine, pushed to every browser. No Prometheus, no Ray, no build step."""
