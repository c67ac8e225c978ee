"""What lessons measure with: trainers, sweeps, loss landscapes, the clinic, processes.

Built on `bn_helpers`; importing the package loads none of its modules.
"""
