"""An ANN becomes a spiking network: what is asked of it, measured on it, and done to it."""
