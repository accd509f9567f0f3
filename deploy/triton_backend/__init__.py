"""Model files of Triton's Python backend, copied into repositories; they import nothing of this project."""
