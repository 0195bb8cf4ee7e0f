"""Generated stubs of the package escalade.v1: `make gen` writes them."""
