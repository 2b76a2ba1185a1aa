"""Samples and labels: files, folders and data sets, read in batches."""
