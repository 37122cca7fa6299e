"""Videos → windows, features and labels."""
