"""What passes share: edits of a graph, neurons in it, and what it tells about itself."""
