"""What a spiking network does, beside its ANN: accuracy, errors, synapses, speed."""
