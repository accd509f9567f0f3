"""Which networks can be pruned, saved, rebuilt, exported: a command that tries many of them and writes the table.

python -m deploy.coverage --set torchvision
"""
