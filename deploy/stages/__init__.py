"""Stages that need a platform. They assemble pieces and contain no idea."""
