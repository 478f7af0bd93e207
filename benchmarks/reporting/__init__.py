"""What benchmarks/report.py writes RESULTS.md with: the records, the tables, the plots. Needs no torch."""
