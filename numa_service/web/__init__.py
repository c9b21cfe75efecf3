"""The web console: a server with one feed of the machine that it pushes to every browser, and the page.

It needs neither Prometheus nor Ray, and the page has no build step.
"""
