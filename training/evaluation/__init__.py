"""Evaluates releases on image sets: figures and image sheets."""
