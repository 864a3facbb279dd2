"""Parts of the network: what it starts from, where it is cut, what its layers are called."""
