"""Passes that bring the many spellings of one computation into one form: ``canonicalise``."""
