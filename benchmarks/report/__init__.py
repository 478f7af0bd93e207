"""What writes RESULTS.md and its plots: the records, the tables, the plots. Needs no torch."""
