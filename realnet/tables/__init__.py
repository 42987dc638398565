"""The table of runs, and what is computed and written from it: intervals, tables, verdicts."""
