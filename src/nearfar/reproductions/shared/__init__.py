"""The harness of all reproductions: grids, plans, verdicts, records, tables."""
