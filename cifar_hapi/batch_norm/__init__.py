"""Batch normalisation, seen and put right."""
