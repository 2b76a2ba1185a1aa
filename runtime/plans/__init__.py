"""The graphs that a session runs, cut out of a spiking network."""
