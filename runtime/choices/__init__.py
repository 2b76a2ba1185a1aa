"""How a network runs for a number of samples: what is chosen, and the memory that it takes."""
