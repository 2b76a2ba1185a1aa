"""Passes over a spiking network, layer by layer, each on the spikes of those before it."""
