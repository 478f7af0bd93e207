"""Pages of results and their plots."""
