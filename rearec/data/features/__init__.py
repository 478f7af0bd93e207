"""Vectors of items: made of their titles or read from files, and kept beside a prepared dataset."""
