"""Files in, tables out: decompression, encodings, text tables, json, parquet, timestamps."""
