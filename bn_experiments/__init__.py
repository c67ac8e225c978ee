"""What lessons measure with: trainers, sweeps, landscapes, folding, processes.

Built on `bn_helpers`; importing the package loads none of its modules.
"""
