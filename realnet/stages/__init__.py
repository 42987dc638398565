"""One module per stage of the DAG."""
