"""The calls over a catalogue that is split over ranks: what they exchange, around the ops of the backends.

All rows come to every rank, which does for them what concerns its own items.
"""
