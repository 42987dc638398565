"""Provenance of each result: records, lineage, comparison, checks, failures."""
