"""What each result was made from: records, lineage, comparison, checks, failures."""
