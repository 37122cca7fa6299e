"""How the shipped bundles are made."""
