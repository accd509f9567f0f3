"""Converters, named <target>_from_<source>, and the choice between what they make."""
