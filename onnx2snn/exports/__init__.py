"""Spiking networks for other people's systems, and back."""
