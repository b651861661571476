"""Measurements of `longrank bench`, one package or file each."""
