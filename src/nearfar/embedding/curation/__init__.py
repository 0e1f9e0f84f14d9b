"""Curation of pairs in blocks: filters by rules and by scores, and what is nearly the same removed, by one process or
by workers of a Ray cluster, with the same records kept."""
