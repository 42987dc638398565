"""`realnet data fetch`: published datasets, downloaded, checked and unpacked."""
