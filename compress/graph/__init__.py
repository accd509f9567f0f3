"""The units of a network that must be cut together, and the only code that cuts them."""
