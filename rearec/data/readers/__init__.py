"""One module per source format; each hands on interactions or rows with an explicit history (see `formats`)."""
