"""hugetlb: pools of huge pages that are set aside for mappings that ask for them (``mm/hugetlb.c``).

A node keeps the pages that it has (`pool.py`); how a number of pages is spread over nodes is `spread.py`.
"""
