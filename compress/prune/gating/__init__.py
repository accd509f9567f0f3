"""Gates in front of channels and around blocks, trained while the network stands still.

Importing makes what they say available to criteria as the statistics "attention" and "hard_concrete".
"""

from compress.prune.gating.gatherers import gather_attention, gather_hard_concrete

__all__ = ["gather_attention", "gather_hard_concrete"]
