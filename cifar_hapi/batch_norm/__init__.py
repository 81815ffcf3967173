"""Batch normalisation: its formulas, what is wrong with it, and what mends, freezes, synchronises and folds it.

The public names are in `cifar_hapi` itself. Nothing is imported here: `loading` needs freezing, and most else loading.
"""
