"""Stages: verbs that take stored entries and give what is to be stored. Assembly of pieces, no ideas."""
