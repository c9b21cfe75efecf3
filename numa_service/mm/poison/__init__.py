"""Pages whose memory is bad, which nobody gets any more (``mm/memory-failure.c``)."""
