"""Records that packages exchange, and the registries of components."""
